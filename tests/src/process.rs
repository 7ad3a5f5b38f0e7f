//! A process of the lab with its output. Dropping it kills it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::lines::Lines;

/// A running process. Its output is collected line by line.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    stdout: Lines,
    stderr: Lines,
}

/// The result of a process that has ended.
#[derive(Debug)]
pub struct ProcessOutput {
    /// The exit status.
    pub status: ExitStatus,
    /// The whole standard output.
    pub stdout: String,
    /// The whole standard error.
    pub stderr: String,
}

impl ProcessOutput {
    /// Asserts that the process failed with `exit_code`, wrote nothing to standard output, and one sentence with all of `words` to
    /// standard error. For exit code 2, clap's usage may follow.
    #[track_caller]
    pub fn assert_error(&self, exit_code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(exit_code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {self:?}");
        }
        for word in ["panicked", "backtrace", "RUST_BACKTRACE", "at /rustc", "  0:"] {
            assert!(!self.stderr.contains(word), "{word:?}: {self:?}");
        }
        let lines = self.stderr.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(exit_code == 2 || lines == 1, "not one sentence: {self:?}");
    }
}

impl Process {
    /// Starts `command` with `input` on its standard input.
    pub fn spawn(mut command: Command, input: &[u8]) -> Result<Self> {
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(&mut command)?;
        let stdout = Lines::of(child.stdout.take().context("stdout is piped")?);
        let stderr = Lines::of(child.stderr.take().context("stderr is piped")?);
        let stdin = child.stdin.take();
        let process = Self::new(&command, child, stdout, stderr)?;
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).with_context(|| format!("{} does not read its input", process.name))?;
        }
        Ok(process)
    }

    /// Starts `command` without input. Its standard output goes to `stdout` and is not collected.
    pub fn spawn_with_stdout(mut command: Command, stdout: File) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let mut child = start(&mut command)?;
        let stderr = Lines::of(child.stderr.take().context("stderr is piped")?);
        Self::new(&command, child, Lines::default(), stderr)
    }

    /// Starts `command` with the standard streams that it has; collects nothing.
    pub(crate) fn spawn_with_given_stdio(mut command: Command) -> Result<Self> {
        let child = start(&mut command)?;
        Self::new(&command, child, Lines::of(std::io::empty()), Lines::of(std::io::empty()))
    }

    fn new(command: &Command, child: Child, stdout: Lines, stderr: Lines) -> Result<Self> {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { name: name(command), child, pidfd, stdout, stderr })
    }

    /// Runs `command` to its end, which must come within `timeout`.
    pub fn run(command: Command, input: &[u8], timeout: Duration) -> Result<ProcessOutput> {
        Self::spawn(command, input)?.finish(timeout)
    }

    /// Runs `command` to its end; an exit status other than success is an error.
    pub fn run_checked(command: Command, input: &[u8], timeout: Duration) -> Result<ProcessOutput> {
        let name = name(&command);
        let ended = Self::run(command, input, timeout)?;
        if !ended.status.success() {
            bail!("{name} failed in the lab ({}): {}", ended.status, ended.stderr.trim());
        }
        Ok(ended)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The standard output so far.
    pub fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// The standard error so far.
    pub fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// A descriptor that becomes readable when the process ends.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.pidfd, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the end and returns the output.
    pub fn finish(mut self, timeout: Duration) -> Result<ProcessOutput> {
        self.wait(timeout)
    }

    /// Waits for the end and returns the output; the process can still be asked for its output afterwards.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<ProcessOutput> {
        let limit = Timespec::try_from(timeout).context("a timeout beyond time itself")?;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&limit))? == 0 {
            bail!("{} did not end within {timeout:?}; it said: {}", self.name, self.stderr.text().trim());
        }
        let status = self.child.wait()?;
        // Descendants may still hold the pipes, so the end of the output is awaited for a second at most.
        self.stdout.wait_end(Duration::from_secs(1));
        self.stderr.wait_end(Duration::from_secs(1));
        Ok(ProcessOutput { status, stdout: self.stdout.text(), stderr: self.stderr.text() })
    }

    /// Waits for a line of `lines` (one of this process's outputs) that `found` accepts.
    pub fn wait_line<T>(
        &self,
        what: &str,
        lines: &Lines,
        timeout: Duration,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        lines.wait(timeout, |lines| lines.iter().find_map(|line| found(line))).with_context(|| {
            let (out, err) = (self.stdout.text(), self.stderr.text());
            format!("{}: no {what} within {timeout:?}; it said: {out}{err}", self.name)
        })
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn start(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| {
        format!("cannot start {} in the lab (`cargo xtask setup` installs its parts)", name(command))
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
