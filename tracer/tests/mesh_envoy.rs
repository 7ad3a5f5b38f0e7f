//! The evaluator against a real Envoy on generated configurations: hundreds in each run, one Envoy for each batch.
//! Set `EGRESS_TRACER_SEED` to repeat a run, `EGRESS_TRACER_BATCHES` to run more of them.

mod envoy;

use std::net::SocketAddr;

use envoy::generate::{Generator, Random, clusters::clusters, entry};
use envoy::world::{End, Said, Seen, World, evaluated, fault, observed, smaller};
use envoy::{HOST_PORTS, Pod};
use serde_json::Value;

/// Worlds of one batch, each on a port of its own.
const BATCH: usize = 250;
const FIRST_PORT: u16 = 20000;

/// What came of one world.
struct Answer {
    envoy: Seen,
    ours: Result<Said, String>,
    fault: Option<String>,
}

/// A world on which the two differ.
struct Disagreement {
    world: World,
    envoy: Seen,
    fault: String,
}

/// Runs all worlds in one Envoy.
fn run(pod: &Pod, worlds: &[World], sniffs: bool) -> Vec<Answer> {
    let mut listeners = vec![entry(&pod.file("access.log"), sniffs)];
    let mut clients: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for (world, port) in worlds.iter().zip(FIRST_PORT..) {
        let (mut own, to) = world.at(port);
        listeners.append(&mut own);
        clients.push((to, world.head.clone()));
    }
    let envoy = pod.envoy(&listeners, &clusters());
    let dump = envoy.dump();
    let talks = envoy.dial(&clients);
    let mut answers = Vec::new();
    for ((world, (to, head)), (talk, lines)) in worlds.iter().zip(&clients).zip(talks) {
        let seen = observed(&envoy, head, &lines, &talk);
        let ours = evaluated(&dump, *to, head);
        answers.push(Answer { fault: fault(world, &seen, &ours), envoy: seen, ours });
    }
    answers
}

fn disagreements(pod: &Pod, worlds: &[World], sniffs: bool) -> Vec<Disagreement> {
    let with_fault = |(world, answer): (&World, Answer)| {
        // A world that Envoy refused is none.
        answer.ours.is_ok().then_some(())?;
        Some(Disagreement { world: world.clone(), envoy: answer.envoy, fault: answer.fault? })
    };
    worlds.iter().zip(run(pod, worlds, sniffs)).filter_map(with_fault).collect()
}

/// Leaves parts out for as long as the two still differ.
fn smallest(pod: &Pod, mut found: Disagreement, sniffs: bool) -> Disagreement {
    for _ in 0..20 {
        let candidates: Vec<World> = smaller(&found.world).into_iter().take(BATCH).collect();
        // A smaller world that differs in another way is a different disagreement, and as good.
        match disagreements(pod, &candidates, sniffs).into_iter().next() {
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
    let pod = Pod::capturing((FIRST_PORT..).take(BATCH).chain(HOST_PORTS));
    let mut generator = Generator { random: Random(seed), log: pod.file("access.log") };
    let (mut ends, mut uncertain) = ([0; 4], 0);
    for batch in 0..number("EGRESS_TRACER_BATCHES").unwrap_or(2) {
        let worlds: Vec<World> = (0..BATCH).map(|_| generator.world()).collect();
        let sniffs = batch % 2 == 1;
        let mut wrong = Vec::new();
        for (answer, world) in run(&pod, &worlds, sniffs).into_iter().zip(&worlds) {
            let Answer { envoy, ours, fault } = answer;
            ends[match envoy.end {
                End::Reply { .. } => 0,
                End::Sent { .. } => 1,
                End::Closed => 2,
                End::Nothing => 3,
            }] += 1;
            uncertain += usize::from(ours.is_ok_and(|said| !said.decision.certain));
            if let Some(fault) = fault {
                wrong.push(Disagreement { world: world.clone(), envoy, fault });
            }
        }
        if std::env::var_os("EGRESS_TRACER_ALL").is_some() {
            for found in &wrong {
                println!(
                    "{:?} {}\n  envoy {:?}\n  ours  {}",
                    String::from_utf8_lossy(&found.world.head),
                    found.world.to.ip(),
                    found.envoy,
                    found.fault
                );
            }
        }
        let count = wrong.len();
        if let Some(first) = wrong.into_iter().next() {
            let Disagreement { world, envoy, fault } = smallest(&pod, first, sniffs);
            panic!(
                "seed {seed}, batch {batch}: {count} of {BATCH} differ; the smallest of the first one:\n{}\nto {} head {:?}\n\
                 envoy: {envoy:?}\nours:  {fault}",
                serde_json::to_string_pretty(&without_logs(world.listeners)).unwrap(),
                world.to,
                String::from_utf8_lossy(&world.head),
            );
        }
    }
    println!("replies, sent, closed, nothing: {ends:?}; not certain: {uncertain}");
    let all: usize = ends.iter().sum();
    assert!(ends.iter().all(|count| *count > 5), "too few of a kind: {ends:?}");
    assert!(uncertain * 5 < all, "{uncertain} of {all} answers are not certain");
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
