//! The output of `cargo test`: relayed line by line, with how long each test took. The last suite's result is held back, so
//! that a summary can be printed before it.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::Lines;

use crate::progress;

/// Arguments of a test program that make it print how long each test took. Still unstable:
/// <https://doc.rust-lang.org/rustc/tests/index.html#--report-time>
pub(crate) const REPORT_TIME: [&str; 2] = ["-Zunstable-options", "--report-time"];
/// Lets the test programs, and not the compiler, accept them.
const RUNNER: &str = "target.'cfg(unix)'.runner = ['env', 'RUSTC_BOOTSTRAP=1']";
/// How many steps and tests the summary lists.
const LISTED: usize = 10;
/// How long output may still come after cargo has ended: a process that a test left behind may hold the pipe.
const REST: Duration = Duration::from_secs(5);

/// A run of `cargo test` that has ended.
#[derive(Debug)]
pub(crate) struct Output {
    status: ExitStatus,
    relay: Relay,
}

#[derive(Debug, Clone, Default)]
struct Relay {
    /// The suite that runs.
    suite: String,
    suites: usize,
    /// Tests with how long each took.
    tests: Vec<(String, Duration)>,
    /// How often each outcome was printed.
    outcomes: BTreeMap<String, usize>,
    /// The last result, and what came after it.
    held: Vec<String>,
}

/// Adds `test --workspace` to a call of cargo, set up for [`REPORT_TIME`].
pub(crate) fn timed(mut cargo: Command) -> Command {
    cargo.args(["--config", RUNNER, "test", "--workspace"]);
    cargo
}

/// Runs `cargo test`, and relays its output to stdout but for the last result.
pub(crate) fn run(mut command: Command) -> Result<Output> {
    let (reader, writer) = io::pipe()?;
    // One pipe for both: cargo names a suite on stderr before the suite writes to stdout.
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot run cargo test")?;
    drop(command); // or our ends of the pipe would stay open
    let relay = Arc::new(Mutex::new(Relay::default()));
    let ours = Arc::clone(&relay);
    let lines = Lines::each(reader, move |line| {
        for line in lock(&ours).take(line) {
            println!("{line}");
        }
    });
    let status = child.wait()?;
    lines.wait_end(REST);
    let relay = lock(&relay).clone();
    Ok(Output { status, relay })
}

fn lock(relay: &Mutex<Relay>) -> MutexGuard<'_, Relay> {
    relay.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relay {
    /// Takes a line, and returns what is to be printed now.
    fn take(&mut self, line: &str) -> Vec<String> {
        let begins_suite = line.starts_with("     Running ") || line.starts_with("   Doc-tests ");
        if let Some((name, _)) =
            line.trim_start().strip_prefix("Running ").and_then(|rest| rest.split_once(" ("))
        {
            name.trim_start_matches("unittests ").clone_into(&mut self.suite);
            self.suites += 1;
        }
        if let Some((name, outcome, took)) = parse(line) {
            *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
            self.tests.extend(took.map(|took| (format!("{name} ({})", self.suite), took)));
        }
        if line.starts_with("test result: ") {
            let before = std::mem::take(&mut self.held);
            self.held.push(line.to_owned());
            return before;
        }
        if !self.held.is_empty() && !begins_suite {
            self.held.push(line.to_owned());
            return Vec::new();
        }
        let mut now = std::mem::take(&mut self.held);
        now.push(line.to_owned());
        now
    }
}

/// Name, outcome and duration in `test NAME ... OUTCOME <1.234s>`.
fn parse(line: &str) -> Option<(&str, &str, Option<Duration>)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (outcome, took) = match rest.split_once(" <") {
        Some((outcome, took)) => (outcome, took.trim_end_matches("s>").parse().ok()),
        None => (rest, None),
    };
    let outcome = outcome.split(',').next().unwrap_or(outcome); // `ignored, REASON`
    let took = took.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    ["ok", "FAILED", "ignored"].contains(&outcome).then_some((name, outcome, took))
}

impl Output {
    /// Whether all tests passed.
    pub(crate) fn passed(&self) -> bool {
        self.status.success()
    }

    /// Prints the slowest steps and tests, what else failed, what was left out, and last the result that was held back.
    pub(crate) fn summarize(&self, failed: &[anyhow::Error], left_out: Option<&str>) {
        println!("\nSlowest steps:\n{}", slowest(progress::steps()));
        println!("Slowest tests:\n{}", slowest(self.relay.tests.clone()));
        let count = |outcome: &str| self.relay.outcomes.get(outcome).copied().unwrap_or_default();
        println!(
            "In {} test programs: {} passed, {} failed, {} ignored",
            self.relay.suites,
            count("ok"),
            count("FAILED"),
            count("ignored")
        );
        for error in failed {
            println!("Failed beside them: {error:#}");
        }
        if let Some(left_out) = left_out {
            println!("{left_out}");
        }
        println!();
        for line in &self.relay.held {
            println!("{line}");
        }
    }
}

fn slowest(mut all: Vec<(String, Duration)>) -> String {
    all.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let line = |(name, took): &(String, Duration)| format!("{:>8.1} s  {name}\n", took.as_secs_f32());
    all.iter().take(LISTED).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_and_duration_are_read_from_a_line_of_a_test() {
        let took = Some(Duration::from_millis(1500));
        assert_eq!(parse("test a::b ... ok <1.500s>"), Some(("a::b", "ok", took)));
        assert_eq!(parse("test c ... FAILED"), Some(("c", "FAILED", None)));
        assert_eq!(parse("test d ... ignored, needs a kernel"), Some(("d", "ignored", None)));
        assert_eq!(parse("test result: ok. 1 passed"), None);
        assert_eq!(parse("running 2 tests"), None);
    }

    #[test]
    fn only_the_last_result_and_what_follows_it_is_held_back() {
        let mut relay = Relay::default();
        let lines = [
            "     Running unittests src/lib.rs (target/debug/deps/lab-1)",
            "test one ... ok <0.100s>",
            "test result: ok. 1 passed",
            "",
            "     Running tests/top.rs (target/debug/deps/top-1)",
            "test two ... FAILED <0.200s>",
            "test result: FAILED. 0 passed; 1 failed",
            "error: 1 target failed",
        ];
        let printed: Vec<String> = lines.iter().flat_map(|line| relay.take(line)).collect();
        assert_eq!(printed, lines[..6]);
        assert_eq!(relay.held, lines[6..]);
        assert_eq!(relay.tests[0].0, "one (src/lib.rs)");
        assert_eq!(relay.tests[1].0, "two (tests/top.rs)");
        assert_eq!(relay.suites, 2);
    }
}
