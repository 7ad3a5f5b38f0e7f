//! How long it takes from Envoy's answer on the wire to the line on a terminal: a real agent, a real `observe` in a
//! pseudo-terminal, and the time at which the line's end came out of that.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, ready_file};
use crate::lab::Lab;
use crate::script::Script;
use crate::terminal::Terminal;
use crate::tracer::binary;

/// So many sessions are made at once.
const AT_ONCE: usize = 4;

/// The delays of `sessions` lines, sorted: from the record of the answer, which the kernel makes before the packet leaves,
/// to the line's end at the terminal. The scripts are the sessions, over and over; each is answered at once.
///
/// The lab has its Envoy already, and no agent yet.
pub fn line_latencies(lab: &Lab, sessions: usize, scripts: &[Script]) -> Result<Vec<Duration>> {
    let agent = Agent::start(lab, &[])?;
    let ready = ready_file(lab)?;
    let ready_name = ready.display().to_string();
    let args = ["observe", "-o", "json", "--ready-file", &ready_name];
    let terminal = Terminal::start(lab.tools(), &binary()?, &args, (50, 200), &[])?;
    terminal.wait_written("Ctrl-C ends it")?;
    let scripts: Vec<Script> = scripts.iter().cycle().take(sessions).cloned().collect();
    let mut made = 0;
    for some in scripts.chunks(AT_ONCE) {
        lab.play(some)?;
        made += some.len();
        terminal.wait_lines(made + 1)?; // one says where sessions come from
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

/// Microseconds since the epoch of a report's time, `2026-11-20T11:45:15.123456Z`.
fn micros(time: &str) -> Option<u64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok()
}
