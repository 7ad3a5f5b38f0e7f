//! Cost of the agent on a full node, measured by the test of a node with a real containerd (`tests/tests/node/density.rs`). The
//! test starts the pods: the client of container runtimes is no dependency of xtask.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::figures::{Figures, Table, short};
use crate::cargo;
use crate::progress;

/// Runs the test with the image `archive` and the load generator `load`, and evaluates its numbers.
pub(crate) fn measure(archive: &Path, load: &Path, quick: bool, figures: &mut Figures) -> Result<()> {
    let [rest, seconds] = if quick { ["5", "10"] } else { ["30", "30"] };
    let found = progress::step("Measuring: a node with 250 pods (minutes)", |_| {
        let mut command = cargo::here();
        command.args(["test", "--quiet", "--package", "tests", "--test", "node", "--"]);
        command.args(["--ignored", "--nocapture", "--exact", "density::a_full_node"]);
        command.env("EGRESS_TRACER_IMAGE", archive).env("EGRESS_TRACER_LOAD", load);
        command.env("EGRESS_TRACER_REST", rest).env("EGRESS_TRACER_SECONDS", seconds);
        figures_of(&mut command)
    })?;
    let number = |at: &str| found.pointer(at).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let megabytes = |at: &str| number(at) / 1024.0;
    let rate = number("/sessions") / number("/seconds");
    figures.at_most("idle agent, MiB resident", megabytes("/empty/resident_kb"), 25.0);
    figures.at_most("idle agent, % of a core", number("/empty/cpu_share") * 100.0, 0.1);
    figures.at_most("idle agent beside 250 pods, % of a core", number("/full/cpu_share") * 100.0, 0.1);
    figures.at_least("sessions per second on the node with 250 pods", rate, 950.0);
    figures.at_most("agent with 250 pods and these sessions, maximum MiB", megabytes("/peak_kb"), 64.0);
    let uncounted = number("/sessions") - number("/counted");
    figures.at_most("of these sessions, not counted", uncounted.abs(), 0.0);
    let row = |what: &str, memory: String, cpu: f64| vec![what.to_owned(), memory, short(cpu * 100.0)];
    let loaded = format!(
        "250 pods, {} sessions a second in {} of them ({} series, {} without a name)",
        short(rate),
        found["asking"],
        found["series"],
        found["misses"]
    );
    let memory = format!("{}, at most {}", short(megabytes("/resident_kb")), short(megabytes("/peak_kb")));
    figures.table(Table {
        title: "The agent on a node",
        note: format!(
            "The agent from the image, as a pod on a real containerd, with the DaemonSet's security context and \
             `--metrics-label pod`. Memory: VmRSS, and VmHWM for the maximum, start included. Processor: usage_usec of \
             its container's cgroup over {rest} s without requests, and over the load. There are no health checks and \
             no scrapes meanwhile. 242 of the pods share the node's network and sleep; 8 have an Envoy each, which \
             answers all CONNECTs of their app itself (`handled_as_http`), because a proxy would saturate first."
        ),
        head: &["state", "MiB", "% of a core"],
        rows: vec![
            row("idle, no other pod", short(megabytes("/empty/resident_kb")), number("/empty/cpu_share")),
            row("idle beside 250 pods", short(megabytes("/full/resident_kb")), number("/full/cpu_share")),
            row(&loaded, memory, number("/cpu_share")),
        ],
    });
    figures.numbers("node", found);
    Ok(())
}

/// The numbers that the test prints.
fn figures_of(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo test")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "measuring the node failed: {said}");
    let line =
        said.lines().find_map(|line| line.split_once("FIGURES ")).context("the test said no figures")?;
    Ok(serde_json::from_str(line.1)?)
}
