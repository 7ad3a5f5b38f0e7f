//! A process that writes a file when it is ready, and the wait for that.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::process::{Ended, Process};

const PATIENCE: Duration = Duration::from_secs(90);

/// Starts `command` and returns when it has written `file`, which it was told to; the file's directory is there already.
pub fn spawn_ready(command: Command, file: &Path) -> Result<Process> {
    ready(command, file, |command| Process::spawn(command, &[]))
}

/// The same, with what it says on stdout written to a file.
pub(crate) fn spawn_ready_into(command: Command, stdout: File, file: &Path) -> Result<Process> {
    ready(command, file, |command| Process::spawn_with_stdout(command, stdout))
}

fn ready(command: Command, file: &Path, start: impl FnOnce(Command) -> Result<Process>) -> Result<Process> {
    let name = command.get_program().to_string_lossy().into_owned();
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let dir = file.parent().context("a file in a directory")?;
    inotify::add_watch(&watch, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    let process = start(command)?;
    let end = Instant::now() + PATIENCE;
    while !file.exists() {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::new(process.pidfd(), PollFlags::IN)];
        let events = poll(&mut fds, Some(&left))?;
        if fds[1].revents().contains(PollFlags::IN) {
            let Ended { status, stdout, stderr } = process.finish(PATIENCE)?;
            bail!("{name} ended before it was ready ({status}): {stdout}{stderr}");
        }
        ensure!(events > 0, "{name} was not ready within {PATIENCE:?}: {}", process.stderr().text());
        let mut buffer = [0; 4096];
        let _ = rustix::io::read(&watch, &mut buffer); // only to rest until the next event
    }
    Ok(process)
}
