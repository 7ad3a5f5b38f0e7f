//! Running something inside another process's network namespace, on a thread that is made for it and ends with it.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `task` in the network namespace of process `pid`, and waits for it.
///
/// The namespace belongs to a thread, not to the process (setns(2)), and the thread is dropped afterwards: no other
/// code ever runs in the wrong namespace, and nothing has to be undone. Needs `CAP_SYS_ADMIN`.
pub(super) fn within<T: Send + 'static>(
    pid: u32,
    task: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let path = format!("/proc/{pid}/ns/net");
    let file = File::open(&path).with_context(|| {
        format!("cannot open the network namespace of process {pid} ({path}): is it still running, and are you root?")
    })?;
    let thread = std::thread::Builder::new().name(format!("netns-{pid}")).spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).with_context(|| {
            format!("cannot enter the network namespace of process {pid}: it needs CAP_SYS_ADMIN")
        })?;
        Ok(task())
    });
    let thread = thread.context("cannot start a thread")?;
    thread.join().map_err(|_| anyhow!("the thread in the namespace of process {pid} ended early"))?
}
