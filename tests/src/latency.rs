//! The delay from Envoy's answer to the line on a terminal, measured with a real agent and a real `observe` in a
//! pseudo-terminal.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, ready_file};
use crate::lab::Lab;
use crate::script::Script;
use crate::terminal::Terminal;
use crate::tracer::tracer_binary;

/// Sessions made at a time.
const AT_ONCE: usize = 4;

/// The sorted delays of `sessions` lines: from the kernel's record of the answer, made before the packet leaves, to the
/// end of the line on the terminal. The scripts are played in turn; each must be answered at once.
///
/// The lab must have its Envoy, and no agent.
pub fn line_latencies(lab: &Lab, sessions: usize, scripts: &[Script]) -> Result<Vec<Duration>> {
    let agent = Agent::start(lab, &[])?;
    let ready = ready_file(lab)?;
    let ready_name = ready.display().to_string();
    let args = ["observe", "-o", "json", "--ready-file", &ready_name];
    let terminal = Terminal::start(lab.tools(), &tracer_binary()?, &args, (50, 200), &[])?;
    terminal.wait_written("Ctrl-C ends it")?;
    let scripts: Vec<Script> = scripts.iter().cycle().take(sessions).cloned().collect();
    let mut made = 0;
    for some in scripts.chunks(AT_ONCE) {
        lab.play(some)?;
        made += some.len();
        terminal.wait_lines(made + 1)?; // the first line says where sessions come from
    }
    let lines = terminal.wait_lines(sessions + 1)?;
    let mut delays = lines.iter().skip(1).map(delay).collect::<Result<Vec<_>>>()?;
    ensure!(delays.len() == sessions, "{} lines of {sessions} sessions", delays.len());
    delays.sort_unstable();
    agent.stop()?;
    Ok(delays)
}

fn delay((came, line): &(SystemTime, String)) -> Result<Duration> {
    let report: Value = serde_json::from_str(line).with_context(|| format!("no report: {line}"))?;
    let asked = report["time"].as_str().and_then(micros).with_context(|| format!("no time: {line}"))?;
    let after = report["reply"]["after_us"].as_u64().with_context(|| format!("no answer: {line}"))?;
    let came = came.duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(came.saturating_sub(Duration::from_micros(asked + after)))
}

/// A report's time (`2026-11-20T11:45:15.123456Z`) in microseconds since the epoch.
fn micros(time: &str) -> Option<u64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok()
}
