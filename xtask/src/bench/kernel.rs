//! What a kernel program of the tracer costs each time it runs, beside empty programs on the same hooks in the same runs:
//! one attached before it, one behind it, as the first to touch a packet pays for the cache.

use std::collections::HashMap;

use anyhow::{Context, Result};
use lab::load::{Generator, Load};
use lab::{EmptyPrograms, Runs, program_runs};
use serde_json::{Value, json};

use super::figures::{Figures, Table, short};
use super::stage::Stage;

type Counts = HashMap<&'static str, Runs>;

/// What the programs did meanwhile.
struct Cost {
    ours: Counts,
    /// Of both empty ones.
    empty: Counts,
}

pub(crate) fn measure(stage: &Stage, seconds: f64, figures: &mut Figures) -> Result<()> {
    let cgroup = stage.lab.pod_cgroup();
    let before = EmptyPrograms::attach(cgroup)?;
    let tracer = stage.observe(&["--metrics-programs", "--probes", "cgroup"])?;
    let behind = EmptyPrograms::attach(cgroup)?;
    let count = || -> Result<Cost> {
        let ours = program_runs(tracer.pid())?;
        let mut empty = before.runs()?;
        for (name, runs) in behind.runs()? {
            let both = empty.get_mut(name).context("the same hooks")?;
            *both = Runs { ns: both.ns + runs.ns, count: both.count + runs.count };
        }
        Ok(Cost { ours, empty })
    };
    let flows = [
        // First, as for some time after a CONNECT other first bytes are of interest, too.
        ("short flow that is not ours", "b", Load::Short(Stage::server(seconds))),
        ("long-lived flow past its first bytes", "a", Load::RoundTrips(Stage::echo(seconds))),
        ("CONNECT session, tunneled", "c", Load::Connections(Stage::echo(seconds))),
        ("short flow beside a CONNECT session", "d", Load::Short(Stage::server(seconds))),
    ];
    let (mut rows, mut numbers) = (Vec::new(), serde_json::Map::new());
    for (title, letter, load) in flows {
        let cold = count()?;
        let process = stage.start(&load)?;
        // A long-lived flow only counts once it is past its first bytes, and before its end.
        let start = if letter == "a" { count()? } else { cold };
        let done = Generator::done(&process)?;
        let cost = count()?.since(&start);
        process.finish(std::time::Duration::from_secs(10))?;
        let (ours, empty) = (cost.total(&cost.ours), cost.total(&cost.empty));
        let ratio = ours / empty;
        for (hook, runs) in cost.hooks() {
            let beside = ns(cost.empty[hook]);
            rows.push(vec![
                format!("({letter}) {title}"),
                format!("`{hook}`"),
                runs.count.to_string(),
                short(ns(runs)),
                short(beside),
                short(ns(runs) / beside),
            ]);
        }
        let each = |total: f64| total / done.count.max(1) as f64;
        rows.push(vec![
            format!("({letter}) {title}"),
            "all".to_owned(),
            String::new(),
            format!("{} each {}", short(each(ours)), if letter == "a" { "round trip" } else { "flow" }),
            short(each(empty)),
            format!("**{}**", short(ratio)),
        ]);
        let hooks: Vec<Value> = cost
            .hooks()
            .map(|(hook, runs)| json!({"hook": hook, "runs": runs.count, "ns": ns(runs), "empty_ns": ns(cost.empty[hook])}))
            .collect();
        numbers.insert(letter.to_owned(), json!({"flow": title, "hooks": hooks, "ratio": ratio}));
        match letter {
            "a" => figures.at_most("kernel, past first bytes: times an empty program", ratio, 1.5),
            "b" => figures.at_most("kernel, not ours: times empty programs", ratio, 2.5),
            _ => {}
        }
    }
    tracer.stop()?;
    figures.numbers("kernel", Value::Object(numbers));
    figures.table(Table {
        title: "In the kernel, the cgroup family",
        note: "Nanoseconds a run, as the kernel counts them (`kernel.bpf_stats_enabled`), beside empty programs on the \
               same hooks in the same runs, one before the tracer's and one behind it. Counting itself takes most of an \
               empty program's time, so ratios flatter both. All legs of a flow are in the pod, so the app's, Envoy's \
               accepted and Envoy's own socket all count."
            .to_owned(),
        head: &["flow", "program", "runs", "ns", "empty, ns", "ratio"],
        rows,
    });
    Ok(())
}

impl Cost {
    fn since(mut self, earlier: &Self) -> Self {
        for (now, then) in [(&mut self.ours, &earlier.ours), (&mut self.empty, &earlier.empty)] {
            for (hook, runs) in now {
                *runs = runs.since(then.get(hook).copied().unwrap_or_default());
            }
        }
        self
    }

    /// The tracer's programs that ran.
    fn hooks(&self) -> impl Iterator<Item = (&'static str, Runs)> {
        let mut hooks: Vec<_> = self.ours.iter().filter(|(_, runs)| runs.count > 0).collect();
        hooks.sort_by_key(|(name, _)| **name);
        hooks.into_iter().map(|(name, runs)| (*name, *runs))
    }

    /// As many runs as the tracer's programs had, at the mean of `of`, in ns.
    fn total(&self, of: &Counts) -> f64 {
        self.hooks().map(|(hook, runs)| runs.count as f64 * of.get(hook).map_or(f64::NAN, |of| ns(*of))).sum()
    }
}

fn ns(runs: Runs) -> f64 {
    runs.ns as f64 / runs.count as f64
}
