//! `egress-tracer observe --standalone`, scoped to the lab's pod. Its reports are collected as they arrive.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use serde_json::Value;

use crate::app::built_program;
use crate::lab::Lab;
use crate::lines::Lines;
use crate::place::Place;
use crate::process::{Process, ProcessOutput};
use crate::wait::{spawn_ready, spawn_ready_into};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Its metrics address in the tools' namespace, where the fixed port is free.
pub(crate) const METRICS: &str = "127.0.0.1:9475";

/// A running tracer.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
    reports: Lines,
    place: Place,
}

impl Tracer {
    /// Observes the lab's pod with `-o json` and extra `args`. Returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start_at(lab, &tracer_binary()?, args)
    }

    /// Observes the lab's pod with a given `egress-tracer` binary.
    pub fn start_at(lab: &Lab, binary: &Path, args: &[&str]) -> Result<Self> {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        let mut tracer = Self::launch(lab, lab.tools(), binary, "warn", &args)?;
        tracer.reports = tracer.process.stdout().clone();
        Ok(tracer)
    }

    /// Starts a second tracer of the pod. Its metrics are in the pod's namespace.
    pub fn start_second(lab: &Lab, binary: &Path) -> Result<Self> {
        let mut tracer = Self::launch(lab, lab.pod_root(), binary, "warn", &["-o", "json"])?;
        tracer.reports = tracer.process.stdout().clone();
        Ok(tracer)
    }

    /// Observes the pod with `-o compact` on stdout, and reads the reports from a report file.
    pub fn start_compact(lab: &Lab, binary: &Path, args: &[&str]) -> Result<Self> {
        Self::start_as(lab, binary, "compact", "warn", args)
    }

    /// Observes the pod in any format with the log level `trace`, and reads the reports from a report file.
    pub fn start_verbose(lab: &Lab, format: &str, args: &[&str]) -> Result<Self> {
        Self::start_as(lab, &tracer_binary()?, format, "trace", args)
    }

    fn start_as(lab: &Lab, binary: &Path, format: &str, log: &str, args: &[&str]) -> Result<Self> {
        // The report file is a named pipe, so reports arrive as they are written. It is open at both ends, so that
        // opening it does not block.
        let pipe = lab.dir().join("reports");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR)
            .context("cannot make the pipe for the reports")?;
        let reader = File::from(rustix::fs::open(&pipe, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
        let path = pipe.display().to_string();
        let args: Vec<&str> =
            ["-o", format, "--force", "--report-file", &path].iter().chain(args).copied().collect();
        let mut tracer = Self::launch(lab, lab.tools(), binary, log, &args)?;
        tracer.reports = Lines::of(reader);
        Ok(tracer)
    }

    /// Observes the pod with `-o json` into a file, which the test does not read while it runs.
    pub fn start_into(lab: &Lab, binary: &Path, file: &Path) -> Result<Self> {
        let stdout = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        Self::launch_with(lab, lab.tools(), binary, "warn", &["-o", "json"], |command, ready| {
            spawn_ready_into(command, stdout, ready)
        })
    }

    fn launch(lab: &Lab, place: &Place, binary: &Path, log: &str, args: &[&str]) -> Result<Self> {
        Self::launch_with(lab, place, binary, log, args, spawn_ready)
    }

    fn launch_with(
        lab: &Lab,
        place: &Place,
        binary: &Path,
        log: &str,
        args: &[&str],
        spawn: impl FnOnce(Command, &Path) -> Result<Process>,
    ) -> Result<Self> {
        Self::launch_at(place, lab.dir(), lab.pod_cgroup(), binary, log, args, spawn)
    }

    /// Observes the pods below `cgroup` with `-o json` and further `args`. It runs in `place`, with its files in `dir`.
    pub fn start_in(place: &Place, dir: &Path, cgroup: &Path, binary: &Path, args: &[&str]) -> Result<Self> {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        let mut tracer = Self::launch_at(place, dir, cgroup, binary, "warn", &args, spawn_ready)?;
        tracer.reports = tracer.process.stdout().clone();
        Ok(tracer)
    }

    fn launch_at(
        place: &Place,
        dir: &Path,
        cgroup: &Path,
        binary: &Path,
        log: &str,
        args: &[&str],
        spawn: impl FnOnce(Command, &Path) -> Result<Process>,
    ) -> Result<Self> {
        let ready_dir = tempfile::Builder::new().prefix("tracer-").tempdir_in(dir)?.keep();
        let ready = ready_dir.join("ready");
        let mut command = place.command_at(binary)?;
        command.env("EGRESS_TRACER_LOG", log);
        command.args(["observe", "--standalone", "--cgroup"]).arg(cgroup);
        command.arg("--ready-file").arg(&ready).args(["--metrics-address", METRICS]).args(args);
        let process = spawn(command, &ready)?;
        Ok(Self { process, reports: Lines::default(), place: place.clone() })
    }

    /// All reports so far, as JSON lines.
    pub fn report_lines(&self) -> &Lines {
        &self.reports
    }

    /// All reports so far.
    pub fn reports(&self) -> Result<Vec<Value>> {
        self.reports.all().iter().map(|line| parse(line)).collect()
    }

    /// Waits until there are `count` reports in all. Returns all reports so far.
    pub fn wait_reports(&self, count: usize, timeout: Duration) -> Result<Vec<Value>> {
        let enough = self.reports.wait(timeout, |lines| (lines.len() >= count).then_some(()));
        let reports = self.reports()?;
        if enough.is_none() {
            let (got, said) = (reports.len(), self.process.stderr().text());
            bail!("{got} of {count} reports within {timeout:?}: {reports:?}; egress-tracer said: {said}");
        }
        Ok(reports)
    }

    /// The metrics in Prometheus' text format, scraped from the running tracer.
    pub fn metrics(&self) -> Result<String> {
        self.place.netns().http_get(&format!("http://{METRICS}/metrics"))
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> &Lines {
        self.process.stdout()
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> &Lines {
        self.process.stderr()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(self) -> Result<ProcessOutput> {
        self.process.finish(TIMEOUT)
    }

    /// Kills it with SIGKILL and returns its output.
    pub fn kill(self) -> Result<ProcessOutput> {
        self.process.signal(Signal::KILL)?;
        self.process.finish(TIMEOUT)
    }

    /// Stops it with SIGINT and returns its output.
    pub fn stop(self) -> Result<ProcessOutput> {
        self.process.signal(Signal::INT)?;
        self.process.finish(TIMEOUT)
    }
}

/// `$EGRESS_TRACER_BIN`, or the binary built beside the running tests.
pub fn tracer_binary() -> Result<PathBuf> {
    match env::var_os("EGRESS_TRACER_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => built_program("egress-tracer"),
    }
}

fn parse(line: &str) -> Result<Value> {
    serde_json::from_str(line).with_context(|| format!("egress-tracer wrote a line that is no JSON: {line}"))
}
