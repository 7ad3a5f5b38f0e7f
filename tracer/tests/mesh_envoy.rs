//! The evaluator against a real Envoy on generated configurations: hundreds in each run, one Envoy for each batch.
//! Set `EGRESS_TRACER_SEED` to repeat a run, `EGRESS_TRACER_BATCHES` to run more of them.

mod envoy;

use std::net::SocketAddr;

use envoy::Pod;
use envoy::generate::{Generator, Random, clusters, entry};
use envoy::world::{End, Seen, World, evaluated, observed, smaller};
use serde_json::Value;

/// Worlds of one batch, each on a port of its own.
const BATCH: usize = 250;
const FIRST_PORT: u16 = 20000;

/// A world on which the two differ.
struct Disagreement {
    world: World,
    envoy: Seen,
    ours: Result<Seen, String>,
}

/// Runs all worlds in one Envoy.
fn run(pod: &Pod, worlds: &[World], sniffs: bool) -> Vec<(Seen, Result<Seen, String>)> {
    let mut listeners = vec![entry(&pod.file("access.log"), sniffs)];
    let mut clients: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for (world, port) in worlds.iter().zip(FIRST_PORT..) {
        let (mut own, to) = world.at(port);
        listeners.append(&mut own);
        clients.push((to, world.head.clone()));
    }
    let envoy = pod.envoy(&listeners, &clusters());
    let dump = envoy.dump();
    let answers = envoy.dial(&clients);
    clients
        .iter()
        .zip(answers)
        .map(|((to, head), (talk, lines))| (observed(&lines, &talk), evaluated(&dump, *to, head)))
        .collect()
}

fn disagreements(pod: &Pod, worlds: &[World], sniffs: bool) -> Vec<Disagreement> {
    run(pod, worlds, sniffs)
        .into_iter()
        .zip(worlds)
        .filter(|((envoy, ours), _)| ours.as_ref() != Ok(envoy))
        .map(|((envoy, ours), world)| Disagreement { world: world.clone(), envoy, ours })
        .collect()
}

/// Leaves parts out for as long as the two still differ.
fn smallest(pod: &Pod, mut found: Disagreement, sniffs: bool) -> Disagreement {
    for _ in 0..20 {
        let candidates: Vec<World> = smaller(&found.world).into_iter().take(BATCH).collect();
        let still = disagreements(pod, &candidates, sniffs);
        // A smaller world that differs in another way is a different disagreement, and as good.
        // One that Envoy refused is none: then ours may find nothing either.
        match still.into_iter().find(|found| found.ours.is_ok()) {
            Some(next) => found = next,
            None => break,
        }
    }
    found
}

#[test]
fn generated_configurations_are_decided_as_envoy_decides_them() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // A fixed seed, unless the variable gives another.
    let seed = number("EGRESS_TRACER_SEED").unwrap_or(1);
    println!("EGRESS_TRACER_SEED={seed}");
    let pod = Pod::new();
    let mut generator = Generator { random: Random(seed), log: pod.file("access.log") };
    let mut ends = [0; 4];
    for batch in 0..number("EGRESS_TRACER_BATCHES").unwrap_or(2) {
        let worlds: Vec<World> = (0..BATCH).map(|_| generator.world()).collect();
        let sniffs = batch % 2 == 1;
        let mut wrong = Vec::new();
        for ((envoy, ours), world) in run(&pod, &worlds, sniffs).into_iter().zip(&worlds) {
            ends[match envoy.end {
                End::Reply { .. } => 0,
                End::Sent { .. } => 1,
                End::Closed => 2,
                End::Nothing => 3,
            }] += 1;
            if ours.as_ref() != Ok(&envoy) {
                wrong.push(Disagreement { world: world.clone(), envoy, ours });
            }
        }
        if std::env::var_os("EGRESS_TRACER_ALL").is_some() {
            for found in &wrong {
                println!(
                    "{:?} {}\n  envoy {:?}\n  ours  {:?}",
                    String::from_utf8_lossy(&found.world.head),
                    found.world.to.ip(),
                    found.envoy,
                    found.ours
                );
            }
        }
        let count = wrong.len();
        if let Some(first) = wrong.into_iter().next() {
            let Disagreement { world, envoy, ours } = smallest(&pod, first, sniffs);
            panic!(
                "seed {seed}, batch {batch}: {count} of {BATCH} differ; the smallest of the first one:\n{}\nto {} head {:?}\n\
                 envoy: {envoy:?}\nours:  {ours:?}",
                serde_json::to_string_pretty(&without_logs(world.listeners)).unwrap(),
                world.to,
                String::from_utf8_lossy(&world.head),
            );
        }
    }
    println!("replies, sent, closed, nothing: {ends:?}");
    assert!(ends.iter().all(|count| *count > 5), "too few of a kind: {ends:?}");
}

fn without_logs(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.remove("access_log");
            for child in members.values_mut() {
                *child = without_logs(child.take());
            }
        }
        Value::Array(items) => {
            for child in items {
                *child = without_logs(child.take());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}
