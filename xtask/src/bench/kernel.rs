//! What a kernel program of the tracer costs each time it runs, beside empty programs on the same hooks in the same runs:
//! one attached before it, one behind it, as the first to touch a packet pays for the cache. Then the same for the least
//! programs that could do the job, in its place. Each kind of traffic has a pod of its own.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::load::{Generator, Load};
use lab::{BarePrograms, Runs, Tracer, count_runs, program_runs};
use serde_json::{Value, json};

use super::figures::{Figures, Table, median, quartiles, short};
use super::stage::{Pods, Stage};

type Counts = HashMap<&'static str, Runs>;

/// Whose programs are held against empty ones.
enum Watcher {
    Tracer(Tracer),
    Least(BarePrograms),
}

impl Watcher {
    fn runs(&self) -> Result<Counts> {
        match self {
            Self::Tracer(tracer) => program_runs(tracer.pid()),
            Self::Least(programs) => programs.runs(),
        }
    }
}

/// A kind of traffic.
struct Flow {
    letter: &'static str,
    title: &'static str,
    load: fn(f64) -> Load,
    /// For some time after a CONNECT, other first bytes are of interest, too.
    after_connect: bool,
    /// What a watcher does for it, the least programs can stand for.
    has_least: bool,
}

const PAST_FIRST_BYTES: &str = "a";
const NOT_OURS: &str = "b";
const FLOWS: [Flow; 4] = [
    Flow {
        letter: NOT_OURS,
        title: "short flow that is not ours",
        load: |seconds| Load::Short(Stage::server(seconds)),
        after_connect: false,
        has_least: true,
    },
    Flow {
        letter: PAST_FIRST_BYTES,
        title: "long-lived flow past its first bytes",
        load: |seconds| Load::RoundTrips(Stage::echo(seconds)),
        after_connect: false,
        has_least: true,
    },
    Flow {
        letter: "c",
        title: "CONNECT session, tunneled",
        load: |seconds| Load::Connections(Stage::echo(seconds)),
        after_connect: false,
        has_least: false,
    },
    Flow {
        letter: "d",
        title: "short flow beside a CONNECT session",
        load: |seconds| Load::Short(Stage::server(seconds)),
        after_connect: true,
        has_least: false,
    },
];

/// What the programs did meanwhile.
#[derive(Default)]
struct Cost {
    /// The watcher's.
    watcher: Counts,
    /// Of both empty ones.
    empty: Counts,
    /// Flows or round trips.
    count: u64,
    /// The watcher's as a multiple of the empty ones, round by round.
    ratios: Vec<f64>,
}

/// Measures `rounds` of so many seconds for each kind of traffic.
pub(crate) fn measure(pods: &Pods, rounds: usize, seconds: f64, figures: &mut Figures) -> Result<()> {
    let (mut rows, mut numbers) = (Vec::new(), serde_json::Map::new());
    for flow in &FLOWS {
        let letter = flow.letter;
        let observe = |stage: &Stage| stage.observe(&["--probes", "cgroup"]).map(Watcher::Tracer);
        let cost = pods.with_one(|stage| of(stage, flow, rounds, seconds, observe))?;
        let watch = |stage: &Stage| BarePrograms::least(stage.lab.pod_cgroup()).map(Watcher::Least);
        let least = flow.has_least.then(|| pods.with_one(|stage| of(stage, flow, rounds, seconds, watch)));
        let least = least.transpose()?;
        let title = format!("({letter}) {}", flow.title);
        for (hook, runs) in cost.hooks() {
            let (ns, empty) = (mean(runs), mean(cost.empty[hook]));
            let least = least.as_ref();
            let least =
                least.and_then(|least| Some(mean(*least.watcher.get(hook)?) / mean(least.empty[hook])));
            rows.push(vec![
                title.clone(),
                format!("`{hook}`"),
                runs.count.to_string(),
                short(ns),
                short(empty),
                short(ns / empty),
                least.map(short).unwrap_or_default(),
            ]);
        }
        let unit = if letter == PAST_FIRST_BYTES { "round trip" } else { "flow" };
        rows.push(vec![
            title,
            "all".to_owned(),
            String::new(),
            format!("{} each {unit}", short(cost.each(&cost.watcher))),
            short(cost.each(&cost.empty)),
            cost.shown(),
            least.as_ref().map(Cost::shown).unwrap_or_default(),
        ]);
        let hooks: Vec<Value> = cost
            .hooks()
            .map(|(hook, runs)| {
                json!({"hook": hook, "runs": runs.count, "ns": mean(runs), "empty_ns": mean(cost.empty[hook])})
            })
            .collect();
        match letter {
            NOT_OURS => figures.at_most("kernel, not ours: times empty programs", cost.ratio(), 2.5),
            PAST_FIRST_BYTES => {
                figures.at_most("kernel, past first bytes: times an empty program", cost.ratio(), 1.5);
            }
            _ => {}
        }
        let least = least.map(|least| least.ratios);
        numbers.insert(
            letter.to_owned(),
            json!({"flow": flow.title, "hooks": hooks, "ratios": cost.ratios, "least_ratios": least}),
        );
    }
    figures.numbers("kernel", Value::Object(numbers));
    figures.table(Table {
        title: "In the kernel, the cgroup family",
        note: "Nanoseconds a run, as the kernel counts them (`kernel.bpf_stats_enabled`), beside empty programs on the \
               same hooks in the same runs, one before the tracer's and one behind it. Counting itself takes most of an \
               empty program's time, so ratios flatter both. All legs of a flow are in the pod, so the app's, Envoy's \
               accepted and Envoy's own socket all count. Ratios of all of them are medians of rounds, with the quartiles. \
               The last column is the ratio of the least programs that could do this part of the job \
               (`tests/src/least_program.rs`), which then ran in the tracer's place: they remember each dial, accept and \
               connection in one array without a look at who else is there, find it by the socket, and load a payload's \
               first eight bytes; no scope, no record, no IPv6."
            .to_owned(),
        head: &["flow", "program", "runs", "ns", "empty, ns", "ratio", "the least"],
        rows,
    });
    Ok(())
}

/// What a watcher's programs cost for a kind of traffic.
fn of(
    stage: &Stage,
    flow: &Flow,
    rounds: usize,
    seconds: f64,
    watch: impl FnOnce(&Stage) -> Result<Watcher>,
) -> Result<Cost> {
    let cgroup = stage.lab.pod_cgroup();
    let _counting = count_runs()?;
    let before = BarePrograms::empty(cgroup)?;
    let watcher = watch(stage)?;
    let behind = BarePrograms::empty(cgroup)?;
    let count = || -> Result<Cost> {
        let watcher = watcher.runs()?;
        let mut empty = before.runs()?;
        for (name, runs) in behind.runs()? {
            *empty.get_mut(name).context("the same hooks")? += runs;
        }
        Ok(Cost { watcher, empty, ..Cost::default() })
    };
    let mut all = Cost::default();
    for _ in 0..rounds {
        if flow.after_connect {
            stage.run(&Load::Connections(Stage::echo(seconds / 10.0)))?;
        }
        let cold = count()?;
        let process = stage.start(&(flow.load)(seconds))?;
        // A long-lived flow only counts once it is past its first bytes, and before its end.
        let start = if flow.letter == PAST_FIRST_BYTES { count()? } else { cold };
        let done = Generator::done(&process)?;
        all.add(Cost { count: done.count, ..count()?.since(&start) });
        process.finish(Duration::from_secs(10))?;
    }
    if let Watcher::Tracer(tracer) = watcher {
        tracer.stop()?;
    }
    Ok(all)
}

impl Cost {
    fn since(mut self, earlier: &Self) -> Self {
        for (now, then) in [(&mut self.watcher, &earlier.watcher), (&mut self.empty, &earlier.empty)] {
            for (hook, runs) in now {
                *runs = runs.since(then.get(hook).copied().unwrap_or_default());
            }
        }
        self
    }

    /// The watcher's programs that ran.
    fn hooks(&self) -> impl Iterator<Item = (&'static str, Runs)> {
        let mut hooks: Vec<_> = self.watcher.iter().filter(|(_, runs)| runs.count > 0).collect();
        hooks.sort_by_key(|(name, _)| **name);
        hooks.into_iter().map(|(name, runs)| (*name, *runs))
    }

    /// As many runs as the watcher's programs had, at the mean of `of`, in ns for each flow or round trip.
    fn each(&self, of: &Counts) -> f64 {
        let runs = self.hooks();
        let ns: f64 =
            runs.map(|(hook, runs)| runs.count as f64 * of.get(hook).map_or(f64::NAN, |of| mean(*of))).sum();
        ns / self.count.max(1) as f64
    }

    /// One round more.
    fn add(&mut self, round: Self) {
        self.ratios.push(round.each(&round.watcher) / round.each(&round.empty));
        for (sum, counts) in [(&mut self.watcher, round.watcher), (&mut self.empty, round.empty)] {
            for (hook, runs) in counts {
                *sum.entry(hook).or_default() += runs;
            }
        }
        self.count += round.count;
    }

    /// The watcher's programs as a multiple of empty ones: the median of the rounds.
    fn ratio(&self) -> f64 {
        median(self.ratios.clone())
    }

    /// The same, with the quartiles.
    fn shown(&self) -> String {
        let [low, ratio, high] = quartiles(self.ratios.clone()).map(short);
        format!("**{ratio}** ({low} to {high})")
    }
}

/// Nanoseconds a run.
fn mean(runs: Runs) -> f64 {
    runs.ns as f64 / runs.count as f64
}
