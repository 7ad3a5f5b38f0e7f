//! A network namespace that has no name: a descriptor holds it, so it vanishes with the last process that lives in it
//! and nothing can be left under `/run/netns`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// A network namespace. Clones are the same namespace.
#[derive(Debug, Clone)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// A new namespace, with nothing but a loopback that is still down.
    pub fn new() -> Result<Self> {
        let made = on_a_thread(|| -> io::Result<OwnedFd> {
            // SAFETY: CLONE_NEWNET changes the network namespace of this thread alone, which ends right after; no
            // descriptor or memory is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = made.context("cannot make a network namespace: this needs root (CAP_SYS_ADMIN)")?;
        Ok(Self(Arc::new(fd)))
    }

    /// That of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/net");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Runs `work` on a thread inside the namespace. Sockets it makes stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            enter(self.0.as_fd()).context("cannot enter a network namespace of the lab")?;
            Ok(work())
        })
    }

    /// A path that `ip link … netns` takes, good as long as this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The inode number: what `/proc/PID/ns/net` shows of it.
    pub fn inode(&self) -> Result<u64> {
        Ok(File::from(self.0.try_clone()?).metadata()?.ino())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Moves the calling thread (or the child about to exec) into the namespace.
pub(crate) fn enter(netns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
