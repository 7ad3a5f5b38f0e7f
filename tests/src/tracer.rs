//! The program under test: `egress-tracer observe`, scoped to the lab's pod, its reports collected as they come.

use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use serde_json::Value;

use crate::admin;
use crate::app::beside_us;
use crate::lab::Lab;
use crate::lines::Lines;
use crate::place::Place;
use crate::process::{Ended, Process};
use crate::ready::{spawn_ready, spawn_ready_into};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where its metrics are, inside the tools' namespace: nothing else is there.
pub(crate) const METRICS: &str = "127.0.0.1:9475";

/// A running tracer.
#[derive(Debug)]
pub struct Tracer {
    process: Process,
    reports: Lines,
    place: Place,
}

impl Tracer {
    /// Observes the lab's pod with `-o json` and further `args`; returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        Self::start_at(lab, &binary()?, args)
    }

    /// The same with a given `egress-tracer`.
    pub fn start_at(lab: &Lab, binary: &Path, args: &[&str]) -> Result<Self> {
        let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
        let mut tracer = Self::launch(lab, lab.tools(), binary, "warn", &args)?;
        tracer.reports = tracer.process.stdout().clone();
        Ok(tracer)
    }

    /// A second one that sees the same: its metrics are in the pod's namespace.
    pub fn start_second(lab: &Lab, binary: &Path) -> Result<Self> {
        let mut tracer = Self::launch(lab, lab.pod_root(), binary, "warn", &["-o", "json"])?;
        tracer.reports = tracer.process.stdout().clone();
        Ok(tracer)
    }

    /// Observes it with `-o compact`, which is then on stdout, and reads the reports beside that.
    pub fn start_compact(lab: &Lab, binary: &Path, args: &[&str]) -> Result<Self> {
        Self::start_as(lab, binary, "compact", "warn", args)
    }

    /// The same in any format, with everything logged that can be.
    pub fn start_talkative(lab: &Lab, format: &str, args: &[&str]) -> Result<Self> {
        Self::start_as(lab, &binary()?, format, "trace", args)
    }

    fn start_as(lab: &Lab, binary: &Path, format: &str, log: &str, args: &[&str]) -> Result<Self> {
        // A named pipe: reports are read as they are written, with nothing to poll. Open at both ends, so that opening
        // waits for nobody.
        let pipe = lab.dir().join("reports");
        rustix::fs::mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR)
            .context("cannot make the pipe for the reports")?;
        let reader = File::from(rustix::fs::open(&pipe, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?);
        let path = pipe.display().to_string();
        let args: Vec<&str> = ["-o", format, "--report-file", &path].iter().chain(args).copied().collect();
        let mut tracer = Self::launch(lab, lab.tools(), binary, log, &args)?;
        tracer.reports = Lines::of(reader);
        Ok(tracer)
    }

    /// Observes it with `-o json`, into a file: nobody reads along.
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
        let ready_dir = tempfile::Builder::new().prefix("tracer-").tempdir_in(lab.dir())?.keep();
        let ready = ready_dir.join("ready");
        let mut command = place.command_at(binary)?;
        command.env("EGRESS_TRACER_LOG", log);
        command.args(["observe", "--standalone", "--cgroup"]).arg(lab.pod_cgroup());
        command.arg("--ready-file").arg(&ready).args(["--metrics-address", METRICS]).args(args);
        let process = spawn(command, &ready)?;
        Ok(Self { process, reports: Lines::default(), place: place.clone() })
    }

    /// All reports so far, as they were written.
    pub fn report_lines(&self) -> &Lines {
        &self.reports
    }

    /// All reports so far.
    pub fn reports(&self) -> Result<Vec<Value>> {
        self.reports.all().iter().map(|line| parse(line)).collect()
    }

    /// Waits until there are `count` reports in all, and gives back all there are.
    pub fn wait_reports(&self, count: usize, timeout: Duration) -> Result<Vec<Value>> {
        let enough = self.reports.wait(timeout, |lines| (lines.len() >= count).then_some(()));
        let reports = self.reports()?;
        if enough.is_none() {
            let (got, said) = (reports.len(), self.process.stderr().text());
            bail!("{got} of {count} reports within {timeout:?}: {reports:?}; egress-tracer said: {said}");
        }
        Ok(reports)
    }

    /// The metrics, scraped from the running tracer in Prometheus' text format.
    pub fn metrics(&self) -> Result<String> {
        admin::get(self.place.netns(), &format!("http://{METRICS}/metrics"))
    }

    /// What it said on stdout, line by line.
    pub fn stdout(&self) -> &Lines {
        self.process.stdout()
    }

    /// What it said on stderr.
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

    /// Waits for its end, whatever that is.
    pub fn wait(self) -> Result<Ended> {
        self.process.finish(PATIENCE)
    }

    /// Kills it as nothing can be caught, and gives back all that it said.
    pub fn kill(self) -> Result<Ended> {
        self.process.signal(Signal::KILL)?;
        self.process.finish(PATIENCE)
    }

    /// Stops it as Ctrl-C does, and gives back all that it said.
    pub fn stop(self) -> Result<Ended> {
        self.process.signal(Signal::INT)?;
        self.process.finish(PATIENCE)
    }
}

/// `$EGRESS_TRACER_BIN`, or the one built beside the running tests.
pub fn binary() -> Result<PathBuf> {
    match env::var_os("EGRESS_TRACER_BIN") {
        Some(path) => Ok(PathBuf::from(path)),
        None => beside_us("egress-tracer"),
    }
}

fn parse(line: &str) -> Result<Value> {
    serde_json::from_str(line).with_context(|| format!("egress-tracer wrote a line that is no JSON: {line}"))
}
