//! A real Prometheus that scrapes the lab's tracer and evaluates rules twice a second.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::place::Place;
use crate::process::Process;
use crate::tracer;

const TIMEOUT: Duration = Duration::from_secs(30);
/// In the tools' namespace, so the fixed port is free.
const LISTEN: &str = "127.0.0.1:9090";

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    place: Place,
}

impl Prometheus {
    /// Starts Prometheus with a rule file and sends its alerts to `alertmanager`. Returns when it is ready.
    pub fn start(lab: &Lab, rules: &Path, alertmanager: &str) -> Result<Self> {
        let dir = lab.make_dir("prometheus")?;
        let (config, target, rules) = (dir.join("prometheus.yaml"), tracer::METRICS, rules.display());
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: ['{rules}']\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs: [{{job_name: egress-tracer, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = lab.tools().command("prometheus")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={LISTEN}"));
        let process = Process::spawn(command, &[])?;
        process.wait_line("ready server", process.stderr(), TIMEOUT, |line| {
            line.contains("Server is ready to receive web requests").then_some(())
        })?;
        Ok(Self { _process: process, place: lab.tools().clone() })
    }

    /// Evaluates an expression now. Returns the `result` of the answer.
    pub fn query(&self, expression: &str) -> Result<Value> {
        let text = self.ask("query", &[("query", expression)])?;
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
