//! A real Prometheus that scrapes a tracer once a second, the most that the tracer allows, and evaluates the project's rules
//! twice a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::make_dir;
use crate::place::Place;
use crate::process::Process;
use crate::tracer;

const TIMEOUT: Duration = Duration::from_secs(30);
/// In the tools' namespace, so the fixed port is free.
const LISTEN: &str = "127.0.0.1:9090";

/// What a `PodMonitor` adds to the agent's series.
const AGENT: &str = "{namespace: egress-tracer, pod: egress-tracer-x1, node: node-1}";

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    place: Place,
}

impl Prometheus {
    /// Starts Prometheus beside the tracer of `place`, with a folder of its own in `dir`; sends its alerts to `alertmanager`.
    /// Returns when it is ready.
    pub fn start(place: &Place, dir: &Path, rules: &Path, alertmanager: &str) -> Result<Self> {
        let dir = dir.join("prometheus");
        make_dir(&dir)?;
        let (config, target, rules) = (dir.join("prometheus.yaml"), tracer::METRICS, rules.display());
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}}\n\
             rule_files: ['{rules}']\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs: [{{job_name: egress-tracer, static_configs: [{{targets: ['{target}'], labels: {AGENT}}}]}}]\n"
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Self::spawn(place, &config, &dir.join("data"))
    }

    /// Starts Prometheus over series that are there, and scrapes nothing. Returns when it is ready.
    pub fn over(place: &Place, dir: &Path, data: &Path) -> Result<Self> {
        let config = dir.join("prometheus.yaml");
        fs::write(&config, "global: {}\n").with_context(|| format!("cannot write {}", config.display()))?;
        Self::spawn(place, &config, data)
    }

    fn spawn(place: &Place, config: &Path, data: &Path) -> Result<Self> {
        let mut command = place.command("prometheus")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        let process = Process::spawn(command, &[])?;
        process.wait_line("ready server", process.stderr(), TIMEOUT, |line| {
            line.contains("Server is ready to receive web requests").then_some(())
        })?;
        Ok(Self { _process: process, place: place.clone() })
    }

    /// Evaluates an expression now. Returns the `result` of the answer.
    pub fn query(&self, expression: &str) -> Result<Value> {
        let text = self.ask("query", &[("query", expression)])?;
        Ok(text["data"]["result"].clone())
    }

    /// Evaluates an expression at a time, in seconds. Returns the `result` of the answer.
    pub fn query_at(&self, expression: &str, time: &str) -> Result<Value> {
        let text = self.ask("query", &[("query", expression), ("time", time)])?;
        Ok(text["data"]["result"].clone())
    }

    /// The answer of `/api/v1/PATH`.
    pub fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = format!("http://{LISTEN}/api/v1/{path}");
        let text = self.place.netns().http_get_with(&url, parameters)?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("Prometheus said {text}"))?;
        ensure!(answer["status"] == "success", "Prometheus said {text} to {parameters:?}");
        Ok(answer)
    }
}

/// Writes the rules of `deploy/prometheus` to `dir` with every duration divided by fifty, so ten minutes become twelve seconds.
pub fn accelerated_rules(dir: &Path) -> Result<PathBuf> {
    let mut rules =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/rules.yaml"))?;
    for (usual, accelerated) in [
        ("offset 10m", "offset 12s"),
        ("offset 30m", "offset 36s"),
        ("[5m]", "[6s]"),
        ("[10m]", "[12s]"),
        ("[30m]", "[36s]"),
        ("[1h]", "[72s]"),
        ("[2h]", "[144s]"),
        ("[6h]", "[432s]"),
        ("[1d]", "[1728s]"),
        ("[3d]", "[5184s]"),
        ("[1d:30m]", "[1728s:36s]"),
        ("time() - 600", "time() - 12"),
        ("time() - 1800", "time() - 36"),
        ("for: 1m\n", "for: 1s\n"),
        ("for: 2m\n", "for: 2s\n"),
        ("for: 5m\n", "for: 6s\n"),
        ("for: 10m\n", "for: 12s\n"),
        ("for: 15m", "for: 18s"),
        ("for: 30m", "for: 36s"),
        ("for: 1h", "for: 72s"),
    ] {
        ensure!(rules.contains(usual), "the rules have no {usual:?} any more");
        rules = rules.replace(usual, accelerated);
    }
    let path = dir.join("rules.yaml");
    fs::write(&path, rules)?;
    Ok(path)
}
