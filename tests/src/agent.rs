//! `egress-tracer agent`, scoped to the lab's pod, and the commands that read from it. They all use the lab's own agent
//! socket.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::Lab;
use crate::process::{Process, ProcessOutput};
use crate::tracer::{METRICS, tracer_binary};
use crate::usage::process_memory_kb;
use crate::wait::spawn_ready;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Starts the agent with extra `args`. Returns when all hooks are attached.
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let ready = ready_file(lab)?;
        let mut command = Self::command(lab, &["agent", "--metrics-address", METRICS, "--cgroup"])?;
        command.arg(lab.pod_cgroup()).arg("--ready-file").arg(&ready).args(args);
        Ok(Self { process: spawn_ready(command, &ready)? })
    }

    /// An `egress-tracer` command with `args` that finds the lab's agent.
    pub fn command(lab: &Lab, args: &[&str]) -> Result<Command> {
        let mut command = lab.tools().command_at(&tracer_binary()?)?;
        command.args(args);
        Ok(command)
    }

    /// Starts `observe` with extra `args`. Returns when it is connected to the agent.
    pub fn observe(lab: &Lab, args: &[&str]) -> Result<Process> {
        let ready = ready_file(lab)?;
        let mut command = Self::command(lab, &["observe", "--ready-file"])?;
        command.arg(&ready).args(args);
        spawn_ready(command, &ready)
    }

    /// Runs `egress-tracer` with `args` to its end.
    pub fn run(lab: &Lab, args: &[&str]) -> Result<ProcessOutput> {
        Process::run(Self::command(lab, args)?, &[], TIMEOUT)
    }

    /// The output of `status -o json`.
    pub fn status(lab: &Lab) -> Result<Value> {
        let ended = Self::run(lab, &["status", "-o", "json"])?;
        serde_json::from_str(&ended.stdout).with_context(|| format!("no status: {ended:?}"))
    }

    /// The agent's socket.
    pub fn socket(lab: &Lab) -> PathBuf {
        lab.dir().join("run/agent.sock")
    }

    /// The agent's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The agent's resident memory in KiB.
    pub fn memory_kb(&self) -> Result<u64> {
        process_memory_kb(self.process.pid(), "VmRSS")
    }

    /// Stops the agent with SIGTERM.
    pub fn stop(self) -> Result<ProcessOutput> {
        self.process.signal(Signal::TERM)?;
        self.process.finish(TIMEOUT)
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(self) -> Result<ProcessOutput> {
        self.process.signal(Signal::KILL)?;
        self.process.finish(TIMEOUT)
    }
}

/// A path for a ready file, in a new directory.
pub(crate) fn ready_file(lab: &Lab) -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("ready-").tempdir_in(lab.dir())?.keep().join("ready"))
}
