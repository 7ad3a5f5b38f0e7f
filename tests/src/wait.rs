//! Waiting: for a process to write its ready file, and for a length of time where there is no event to wait for.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::process::{Process, ProcessOutput};

const TIMEOUT: Duration = Duration::from_secs(90);

/// Blocks for a length of time. A handled signal ends it early. `thread::park_timeout` would not do: it returns at once when a
/// thread scope that this thread waited for has left an unpark token.
pub fn pause(length: Duration) {
    if !length.is_zero() {
        let length = Timespec::try_from(length).expect("a length that fits into a timespec");
        let _ = poll(&mut [], Some(&length));
    }
}

/// Starts `command`, which must be told to write `file` when it is ready, and returns when it has. The directory of `file`
/// must exist.
pub fn spawn_ready(command: Command, file: &Path) -> Result<Process> {
    ready(command, file, |command| Process::spawn(command, &[]))
}

/// Starts `command` like [`spawn_ready`], with its standard output going to a file.
pub(crate) fn spawn_ready_into(command: Command, stdout: File, file: &Path) -> Result<Process> {
    ready(command, file, |command| Process::spawn_with_stdout(command, stdout))
}

fn ready(command: Command, file: &Path, start: impl FnOnce(Command) -> Result<Process>) -> Result<Process> {
    let name = command.get_program().to_string_lossy().into_owned();
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let dir = file.parent().context("a file in a directory")?;
    inotify::add_watch(&watch, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    let process = start(command)?;
    let end = Instant::now() + TIMEOUT;
    while !file.exists() {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::new(process.pidfd(), PollFlags::IN)];
        let events = poll(&mut fds, Some(&left))?;
        if fds[1].revents().contains(PollFlags::IN) {
            let ProcessOutput { status, stdout, stderr } = process.finish(TIMEOUT)?;
            bail!("{name} ended before it was ready ({status}): {stdout}{stderr}");
        }
        ensure!(events > 0, "{name} was not ready within {TIMEOUT:?}: {}", process.stderr().text());
        let mut buffer = [0; 4096];
        let _ = rustix::io::read(&watch, &mut buffer); // drains the events, so that the next poll blocks
    }
    Ok(process)
}
