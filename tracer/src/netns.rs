//! Runs code in another network namespace.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    thread,
};

use anyhow::{Context as _, anyhow};
use rustix::{
    io::Errno,
    process::geteuid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Opens the network namespace of process `pid`.
///
/// # Errors
/// The process is gone, or it has rights that this one has not, and this one lacks `CAP_SYS_PTRACE`
/// ([ptrace(2)], "Ptrace access mode checking").
///
/// [ptrace(2)]: https://man7.org/linux/man-pages/man2/ptrace.2.html
pub fn of_process(pid: u32) -> anyhow::Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!(
            "there is no process {pid} here: is it still running? In a container, other processes are seen with hostPID only"
        ),
        ErrorKind::PermissionDenied if is_root() => anyhow!(
            "finding the network namespace of process {pid} ({path}) needs CAP_SYS_PTRACE, and entering it CAP_SYS_ADMIN: this \
             is root, in a container without them. In an ephemeral container of the pod itself leave --pid and --pod out: its \
             own namespace needs no right"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "finding the network namespace of process {pid} ({path}) needs root (sudo): it is another user's"
        ),
        _ => anyhow!("cannot open the network namespace of process {pid} ({path}): {error}"),
    })
}

/// Runs `task` in the network namespace `netns`, and waits for it. Needs `CAP_SYS_ADMIN`, unless that is the caller's own.
///
/// A network namespace belongs to a thread ([setns(2)]). The task gets a thread of its own, which ends with it, so no other
/// code runs in the wrong namespace and nothing has to be restored.
///
/// [setns(2)]: https://man7.org/linux/man-pages/man2/setns.2.html
///
/// # Errors
/// `netns` is no network namespace, it may not be entered, or the task panicked.
pub fn run_in<T: Send>(netns: &File, task: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    if is_own(netns) {
        return Ok(task());
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(refusal)?;
            Ok(task())
        });
        let thread = thread.context("cannot start a thread")?;
        thread.join().map_err(|_| anyhow!("the thread in the network namespace panicked"))?
    })
}

/// Why a network namespace was not entered.
fn refusal(error: Errno) -> anyhow::Error {
    const WHAT: &str = "cannot enter the network namespace";
    match error {
        Errno::PERM if is_root() => anyhow!(
            "{WHAT}: this needs CAP_SYS_ADMIN, which this container does not have (securityContext.capabilities.add)"
        ),
        Errno::PERM => anyhow!("{WHAT}: this needs root (sudo)"),
        Errno::INVAL => anyhow!("{WHAT}: the file is no network namespace"),
        error => anyhow!("{WHAT}: {error}"),
    }
}

fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether the calling thread is in this namespace already.
fn is_own(netns: &File) -> bool {
    let own = fs::metadata("/proc/thread-self/ns/net");
    own.is_ok_and(|own| {
        netns.metadata().is_ok_and(|other| (own.dev(), own.ino()) == (other.dev(), other.ino()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_no_network_namespace_is_refused() {
        let file = File::open("/proc/self/ns/pid").expect("a namespace");
        let error = run_in(&file, || ()).expect_err("it is a pid namespace").to_string();
        assert!(error.contains("cannot enter the network namespace"), "{error}");
    }

    #[test]
    fn namespace_of_a_process_that_is_gone_is_an_error_that_names_it() {
        let error = of_process(u32::MAX).expect_err("no process has this id").to_string();
        assert!(error.contains("process 4294967295"), "{error}");
    }

    #[test]
    fn own_namespace_is_not_entered() {
        let own = of_process(std::process::id()).expect("a namespace");
        let thread = thread::current().id();
        assert_eq!(run_in(&own, || thread::current().id()).expect("it runs"), thread);
    }
}
