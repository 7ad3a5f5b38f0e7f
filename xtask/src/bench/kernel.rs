//! Cost of each run of the tracer's kernel programs, compared with empty programs on the same hooks in the same runs: one attached
//! before it and one after it, because the first to touch a packet pays for the cache miss. Each round has a new pod and newly
//! loaded programs, because their address in the kernel is part of their cost.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::load::{Load, LoadGenerator};
use lab::{EmptyPrograms, Runs, count_runs, program_runs};
use serde_json::{Value, json};

use super::figures::{Figures, Table, median, quartiles, short};
use super::pods::{BenchPod, Pods};

type Counts = HashMap<&'static str, Runs>;

/// A kind of traffic.
struct Flow {
    letter: &'static str,
    title: &'static str,
    load: fn(f64) -> Load,
    /// Whether a CONNECT precedes it: for some time after one, the programs look at other first bytes, too.
    after_connect: bool,
}

const PAST_FIRST_BYTES: &str = "a";
const NOT_OURS: &str = "b";
const FLOWS: [Flow; 4] = [
    Flow {
        letter: NOT_OURS,
        title: "short flow without a CONNECT",
        load: |seconds| Load::Short(BenchPod::server(seconds)),
        after_connect: false,
    },
    Flow {
        letter: PAST_FIRST_BYTES,
        title: "long-lived flow past its first bytes",
        load: |seconds| Load::RoundTrips(BenchPod::echo(seconds)),
        after_connect: false,
    },
    Flow {
        letter: "c",
        title: "CONNECT session, tunneled",
        load: |seconds| Load::Connections(BenchPod::echo(seconds)),
        after_connect: false,
    },
    Flow {
        letter: "d",
        title: "short flow beside a CONNECT session",
        load: |seconds| Load::Short(BenchPod::server(seconds)),
        after_connect: true,
    },
];

/// Runs of the programs during a load.
#[derive(Default)]
struct Cost {
    /// The tracer's programs.
    tracer: Counts,
    /// Both empty programs.
    empty: Counts,
    /// Flows or round trips.
    count: u64,
    /// Time of the tracer's programs divided by that of the empty ones, for each round.
    ratios: Vec<f64>,
}

/// Measures `rounds` of `seconds` for each kind of traffic.
pub(crate) fn measure(pods: &Pods, rounds: usize, seconds: f64, figures: &mut Figures) -> Result<()> {
    let (mut rows, mut numbers) = (Vec::new(), serde_json::Map::new());
    for flow in &FLOWS {
        let letter = flow.letter;
        let mut cost = Cost::default();
        for _ in 0..rounds {
            cost.add(pods.with_one(|pod| of(pod, flow, seconds))?);
        }
        let title = format!("({letter}) {}", flow.title);
        for (hook, runs) in cost.hooks() {
            let (ns, empty) = (mean(runs), mean(cost.empty[hook]));
            rows.push(vec![
                title.clone(),
                format!("`{hook}`"),
                runs.count.to_string(),
                short(ns),
                short(empty),
                short(ns / empty),
            ]);
        }
        let unit = if letter == PAST_FIRST_BYTES { "round trip" } else { "flow" };
        rows.push(vec![
            title,
            "all".to_owned(),
            String::new(),
            format!("{} each {unit}", short(cost.each(&cost.tracer))),
            short(cost.each(&cost.empty)),
            cost.shown(),
        ]);
        let hooks: Vec<Value> = cost
            .hooks()
            .map(|(hook, runs)| {
                json!({"hook": hook, "runs": runs.count, "ns": mean(runs), "empty_ns": mean(cost.empty[hook])})
            })
            .collect();
        match letter {
            NOT_OURS => {
                figures.at_most("kernel, flow without a CONNECT: times empty programs", cost.ratio(), 3.5);
            }
            PAST_FIRST_BYTES => {
                figures.at_most("kernel, past first bytes: times an empty program", cost.ratio(), 1.5);
            }
            _ => {}
        }
        numbers.insert(letter.to_owned(), json!({"flow": flow.title, "hooks": hooks, "ratios": cost.ratios}));
    }
    figures.numbers("kernel", Value::Object(numbers));
    figures.table(Table {
        title: "In the kernel, the cgroup family",
        note: "Nanoseconds per run, as the kernel counts them (`kernel.bpf_stats_enabled`), compared with empty \
               programs on the same hooks in the same runs, one before the tracer's and one after it. Counting takes \
               most of an empty program's time, so the ratios flatter both. All legs of a flow are in the pod, so the \
               app's, Envoy's accepted and Envoy's own socket all count. The ratios of all programs are medians of \
               rounds, each with freshly loaded programs, with the quartiles."
            .to_owned(),
        head: &["flow", "program", "runs", "ns", "empty, ns", "ratio"],
        rows,
    });
    Ok(())
}

/// Measures a kind of traffic for one round.
fn of(pod: &BenchPod, flow: &Flow, seconds: f64) -> Result<Cost> {
    let cgroup = pod.lab.pod_cgroup();
    let _counting = count_runs()?;
    let before = EmptyPrograms::attach(cgroup)?;
    let tracer = pod.observe(&["--family", "cgroup"])?;
    let behind = EmptyPrograms::attach(cgroup)?;
    let count = || -> Result<Cost> {
        let tracer = program_runs(tracer.pid())?;
        let mut empty = before.runs()?;
        for (name, runs) in behind.runs()? {
            *empty.get_mut(name).context("the same hooks")? += runs;
        }
        Ok(Cost { tracer, empty, ..Cost::default() })
    };
    if flow.after_connect {
        pod.run(&Load::Connections(BenchPod::echo(seconds / 10.0)))?;
    }
    let cold = count()?;
    let process = pod.start(&(flow.load)(seconds))?;
    // A long-lived flow counts only between its first bytes and its end.
    let start = if flow.letter == PAST_FIRST_BYTES { count()? } else { cold };
    let done = LoadGenerator::done(&process)?;
    let cost = Cost { count: done.count, ..count()?.since(&start) };
    process.finish(Duration::from_secs(10))?;
    tracer.stop()?;
    Ok(cost)
}

impl Cost {
    fn since(mut self, earlier: &Self) -> Self {
        for (now, then) in [(&mut self.tracer, &earlier.tracer), (&mut self.empty, &earlier.empty)] {
            for (hook, runs) in now {
                *runs = runs.since(then.get(hook).copied().unwrap_or_default());
            }
        }
        self
    }

    /// Names of the tracer's programs that ran.
    fn hooks(&self) -> impl Iterator<Item = (&'static str, Runs)> {
        let mut hooks: Vec<_> = self.tracer.iter().filter(|(_, runs)| runs.count > 0).collect();
        hooks.sort_by_key(|(name, _)| **name);
        hooks.into_iter().map(|(name, runs)| (*name, *runs))
    }

    /// Time of as many runs as the tracer's programs had at the mean cost of `of`, in ns for each flow or round trip.
    fn each(&self, of: &Counts) -> f64 {
        let runs = self.hooks();
        let ns: f64 =
            runs.map(|(hook, runs)| runs.count as f64 * of.get(hook).map_or(f64::NAN, |of| mean(*of))).sum();
        ns / self.count.max(1) as f64
    }

    /// Adds a round.
    fn add(&mut self, round: Self) {
        self.ratios.push(round.each(&round.tracer) / round.each(&round.empty));
        for (sum, counts) in [(&mut self.tracer, round.tracer), (&mut self.empty, round.empty)] {
            for (hook, runs) in counts {
                *sum.entry(hook).or_default() += runs;
            }
        }
        self.count += round.count;
    }

    /// Cost of the tracer's programs divided by that of empty ones: the median of the rounds.
    fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    /// The median ratio with its quartiles, as text.
    fn shown(&self) -> String {
        let [low, ratio, high] = quartiles(self.ratios.clone()).map(short);
        format!("**{ratio}** ({low} to {high})")
    }
}

/// Mean duration of a run, in ns.
fn mean(runs: Runs) -> f64 {
    runs.ns as f64 / runs.count as f64
}
