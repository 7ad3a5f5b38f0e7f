//! What an application loses while it is watched: round trips, connections a second and bulk throughput through a real Envoy
//! and a real squid. Two equal pods take turns of some milliseconds and one of them is watched, so other load on the machine
//! affects both. Each pod is watched in half of the rounds, so a difference between the pods cancels out. Everything runs on
//! one core, because the scheduler's choice of cores changes the rates by more than a watcher does.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::load::{Load, LoadGenerator, Tunnel, Turns};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use super::figures::{Figures, Table, median, quartiles, short};
use super::observer::Observer;
use super::pods::{BenchPod, Pods};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A kind of load and its unit.
struct Kind {
    title: &'static str,
    tunnel: fn(f64) -> Tunnel,
    load: fn(Tunnel) -> Load,
    /// Length of a turn, in ms. The tracer reads up to 100 ms after the load, so where that matters a turn is much longer.
    turn: u64,
    unit: f64,
}

const KINDS: [Kind; 3] = [
    Kind {
        title: "round trips a second",
        tunnel: BenchPod::echo,
        load: Load::RoundTrips,
        turn: 50,
        unit: 1.0,
    },
    Kind {
        title: "connections (CONNECT granted) a second",
        tunnel: BenchPod::echo,
        load: Load::Connections,
        turn: 500,
        unit: 1.0,
    },
    Kind { title: "bulk, MB a second", tunnel: BenchPod::sink, load: Load::Bulk, turn: 50, unit: 1e6 },
];

/// Results of one watcher and one kind of load.
#[derive(Default)]
struct Found {
    /// Rate while watched divided by the rate while unwatched, for each round.
    ratios: Vec<f64>,
    alone: Vec<f64>,
    pairs: usize,
}

/// Measures each watcher with two new pods in each round. `seconds` is how long each pod is watched in a round.
pub(crate) fn measure(pods: &Pods, rounds: usize, seconds: f64, figures: &mut Figures) -> Result<()> {
    // The target is about the tracer. `Unobserved` is the control and shows the machine's noise.
    let watchers = [
        (Observer::Unobserved, rounds),
        (Observer::Tracer, rounds),
        (Observer::Tcpdump, rounds.min(2)),
        (Observer::TcpdumpHeads, rounds.min(2)),
        (Observer::Tshark, rounds.min(2)),
    ];
    let _one = OneCore::keep_to()?;
    let mut found: Vec<[Found; KINDS.len()]> = watchers.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        for (nth, (watcher, _)) in watchers.iter().enumerate().filter(|(_, (_, rounds))| round < *rounds) {
            let pair = [pods.start()?, pods.start()?];
            for (kind, found) in KINDS.iter().zip(&mut found[nth]) {
                let [first, second] = [
                    in_turns(&pair, 0, *watcher, kind, seconds)?,
                    in_turns(&pair, 1, *watcher, kind, seconds)?,
                ];
                let ratio = |pairs: &[[f64; 2]]| {
                    median(pairs.iter().map(|[watched, alone]| watched / alone).collect())
                };
                // A difference between the pods is in both factors and cancels out.
                found.ratios.push((ratio(&first) * ratio(&second)).sqrt());
                found.alone.extend(first.iter().chain(&second).map(|[_, alone]| alone / kind.unit));
                found.pairs += first.len() + second.len();
            }
            for pod in pair {
                pod.close()?;
            }
        }
    }
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (at, Kind { title, .. }) in KINDS.iter().enumerate() {
        for ((watcher, _), found) in watchers.iter().zip(&found) {
            let Found { ratios, alone, pairs } = &found[at];
            let alone = median(alone.clone());
            let [low, median, high] = quartiles(ratios.clone());
            let percent = |ratio: f64| format!("{:+.1} %", (ratio - 1.0) * 100.0);
            rows.push(vec![
                (*title).to_owned(),
                watcher.name().to_owned(),
                short(alone),
                format!("**{}**", percent(median)),
                format!("{} to {}", percent(low), percent(high)),
                ratios.len().to_string(),
                pairs.to_string(),
            ]);
            numbers.push(json!({"what": title, "watcher": watcher.name(), "alone": alone, "ratio": median,
                "quartiles": [low, high], "rounds": ratios, "pairs": pairs}));
            if *watcher == Observer::Tracer {
                figures.at_least(
                    format!("application, {title}: share of that without a tracer"),
                    median,
                    0.99,
                );
            }
        }
    }
    figures.numbers("application", json!(numbers));
    figures.table(Table {
        title: "What an application loses",
        note: format!(
            "Through Envoy (TCP) and squid's tunnel. Two identical pods take turns of {} ms (connections: of {} ms) on \
             one core, with clients, Envoys, squids, servers and watcher. One of them is watched for {seconds} s, then \
             the other. Each turn is compared with the other pod's turns before and after it. A row shows the median \
             of rounds, each with new pods; half of all rounds lie within the spread. Rounds without a watcher are the \
             control and show this machine's noise. A watcher that reads later than a turn is long takes its time from \
             the other pod's turn, so tshark's connections mean little.",
            KINDS[0].turn, KINDS[1].turn
        ),
        head: &["what", "watcher", "unwatched", "difference", "spread", "rounds", "turns"],
        rows,
    });
    Ok(())
}

/// Runs both pods in turns, and watches one of them. Returns the rate of each watched turn with the mean of the other pod's turns
/// before and after it: compared with only one of these, anything that grows meanwhile (such as ports in `TIME_WAIT`) would
/// look like a difference.
fn in_turns(
    pods: &[BenchPod; 2],
    watched: usize,
    watcher: Observer,
    kind: &Kind,
    seconds: f64,
) -> Result<Vec<[f64; 2]>> {
    let running = watcher.start(&pods[watched])?;
    let start = |pod: usize| {
        let turns = Some(Turns { ms: kind.turn, odd: pod == 1 });
        pods[pod].start(&(kind.load)(Tunnel { turns, ..(kind.tunnel)(2.0 * seconds) }))
    };
    let processes = [start(0)?, start(1)?];
    let mut rates = Vec::new();
    for process in &processes {
        let turns = LoadGenerator::done(process)?.turns;
        rates.push(turns.iter().map(|turn| (turn.number, turn.rate)).collect::<HashMap<u64, f64>>());
    }
    for process in processes {
        process.finish(TIMEOUT)?;
    }
    running.stop()?;
    let other = |number| rates[1 - watched].get(&number);
    let pairs: Vec<[f64; 2]> = rates[watched]
        .iter()
        .filter_map(|(number, rate)| {
            let [before, after] = [other(number.checked_sub(1)?)?, other(number + 1)?];
            Some([*rate, (before * after).sqrt()])
        })
        .collect();
    ensure!(!pairs.is_empty(), "the pods had no turns that follow each other");
    Ok(pairs)
}

/// Pins this thread and the processes that it starts to one core until it is dropped.
struct OneCore {
    before: CpuSet,
}

impl OneCore {
    fn keep_to() -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let last =
            (0..CpuSet::MAX_CPU).rev().find(|&core| before.is_set(core)).context("a core to run on")?;
        let mut one = CpuSet::new();
        one.set(last);
        sched_setaffinity(None, &one)?;
        Ok(Self { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.before) {
            eprintln!("What is measured next runs on one core, too: {error}");
        }
    }
}
