//! The program under test as an agent, scoped to the lab's pod, and the programs that read from it. All of them find each
//! other by the lab's own socket.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::Lab;
use crate::process::{Ended, Process};
use crate::ready::spawn_ready;
use crate::tracer::{METRICS, binary};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Starts it with further `args`; returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let ready = ready_file(lab)?;
        let mut command = Self::command(lab, &["agent", "--metrics-address", METRICS, "--cgroup"])?;
        command.arg(lab.pod_cgroup()).arg("--ready-file").arg(&ready).args(args);
        Ok(Self { process: spawn_ready(command, &ready)? })
    }

    /// `egress-tracer` with `args`, where it finds the lab's agent.
    pub fn command(lab: &Lab, args: &[&str]) -> Result<Command> {
        let mut command = lab.tools().command_at(&binary()?)?;
        command.args(args);
        Ok(command)
    }

    /// Starts `observe` with further `args`; returns when it reads from the agent.
    pub fn observe(lab: &Lab, args: &[&str]) -> Result<Process> {
        let ready = ready_file(lab)?;
        let mut command = Self::command(lab, &["observe", "--ready-file"])?;
        command.arg(&ready).args(args);
        spawn_ready(command, &ready)
    }

    /// Runs `egress-tracer` with `args` to its end.
    pub fn run(lab: &Lab, args: &[&str]) -> Result<Ended> {
        Process::run(Self::command(lab, args)?, &[], PATIENCE)
    }

    /// What `status -o json` says.
    pub fn status(lab: &Lab) -> Result<Value> {
        let ended = Self::run(lab, &["status", "-o", "json"])?;
        serde_json::from_str(&ended.stdout).with_context(|| format!("no status: {ended:?}"))
    }

    /// Where it listens.
    pub fn socket(lab: &Lab) -> PathBuf {
        lab.dir().join("run/agent.sock")
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status =
            std::fs::read_to_string(Path::new("/proc").join(self.process.pid().to_string()).join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        Ok(kib.context("no VmRSS")? << 10)
    }

    /// Ends it as its manager does.
    pub fn stop(self) -> Result<Ended> {
        self.process.signal(Signal::TERM)?;
        self.process.finish(PATIENCE)
    }

    /// Kills it as nothing can be caught.
    pub fn kill(self) -> Result<Ended> {
        self.process.signal(Signal::KILL)?;
        self.process.finish(PATIENCE)
    }
}

/// A file that nobody else uses, in a directory of its own.
pub(crate) fn ready_file(lab: &Lab) -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("ready-").tempdir_in(lab.dir())?.keep().join("ready"))
}
