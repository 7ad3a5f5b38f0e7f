//! The pure engine and the evaluator: runs their benches and reads the results.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::figures::{Figures, Table, short};
use crate::cargo;
use crate::progress;

const LIVE: [&str; 3] = ["live/1000", "live/100000", "live/1000000"];

pub(crate) fn measure(quick: bool, figures: &mut Figures) -> Result<()> {
    let samples = if quick { ["10", "1"] } else { ["20", "5"] };
    let [samples, seconds] = samples;
    bench("core", &["--sample-size", samples, "--measurement-time", seconds, "--warm-up-time", "1"])?;
    let (recorded, live) = (estimate("recorded")?, LIVE.map(estimate));
    let [few, many, most] = live.map(|found| found.unwrap_or(f64::NAN));
    let counted = bench("allocations", &[])?;
    let counted: Vec<Value> = counted.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let field = |name: &str| counted.iter().find_map(|line| line[name].as_f64());
    let allocations = field("per_100_events").context("the bench of allocations said nothing")? / 100.0;
    let bytes = field("bytes_per_session").context("the bench of allocations said nothing of memory")?;
    let dump = bench("mesh_dump", &[])?;
    let dump = dump.lines().rfind(|line| line.starts_with("round")).unwrap_or_default();
    let dump = dump.split_once(": ").map_or(dump, |(_, rest)| rest).to_owned();
    figures.at_least("engine, million events per second on one core", 1e3 / recorded, 1.0);
    figures.at_most(
        "engine, an event among a million live sessions: times that among a thousand",
        most / few,
        2.0,
    );
    figures.numbers(
        "core",
        json!({"recorded_ns": recorded, "live_ns": {"1000": few, "100000": many, "1000000": most},
            "allocations_per_event": allocations, "bytes_per_live_session": bytes, "mesh_dump": dump}),
    );
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    figures.table(Table {
        title: "Engine and evaluator",
        note: "`cargo bench --bench core`, processor time of one thread. The live sessions are granted tunnels of 250 \
               pods, and one in ten that waits for its answer; for each session that begins, another one ends."
            .to_owned(),
        head: &["what", "value"],
        rows: vec![
            row("one event of the recorded demo", format!("{} ns ({} million a second)", short(recorded), short(1e3 / recorded))),
            row("one event among 1,000 live sessions", format!("{} ns", short(few))),
            row("among 100,000", format!("{} ns, {} times that", short(many), short(many / few))),
            row("among 1,000,000", format!("{} ns, {} times that", short(most), short(most / few))),
            row("allocations per event", short(allocations)),
            row("memory per live session", format!("{} bytes", short(bytes))),
            row("the evaluator on a dump of 5,000 services", dump),
        ],
    });
    Ok(())
}

/// Runs a bench, and returns its output.
fn bench(name: &str, arguments: &[&str]) -> Result<String> {
    progress::step(&format!("Measuring: {name}"), |_| {
        let mut command = cargo::here();
        command.args(["bench", "--quiet", "--workspace", "--bench", name, "--"]).args(arguments);
        let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo bench")?;
        ensure!(output.status.success(), "the bench {name} failed; its output is above");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// The median of criterion's estimates, in ns.
fn estimate(name: &str) -> Result<f64> {
    let criterion = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/criterion/core");
    let path = criterion.join(name).join("new/estimates.json");
    let text = fs::read_to_string(&path).with_context(|| format!("criterion left no {}", path.display()))?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"].as_f64().context("criterion's estimates have no median")
}
