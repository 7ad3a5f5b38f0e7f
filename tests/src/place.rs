//! Where a process of the lab runs: its network namespace, its cgroup, its user. The process is there from its first
//! instruction, because a socket keeps the cgroup in which it was made.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;

use crate::cgroup::Cgroup;
use crate::netns::{self, Netns};

/// The `PATH` inside the lab: the system's own programs, not those of whoever runs it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A place for processes.
#[derive(Debug, Clone)]
pub struct Place {
    pub(crate) netns: Netns,
    pub(crate) cgroup: Cgroup,
    /// User and group id; `None` stays root.
    pub(crate) user: Option<u32>,
    /// Where programs of any user can be seen: a directory that every user can enter.
    pub(crate) bin: PathBuf,
}

impl Place {
    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A command that will run here, in a clean environment, found on the system's `PATH`.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.prepare(Command::new(program), None)
    }

    /// A command for a program that the place's user may not be able to reach (below `/root`, say): it is shown to it
    /// under its own name in a directory that every user can enter, in a mount namespace that ends with it.
    pub fn command_at(&self, program: &Path) -> Result<Command> {
        let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
        let shown = self.bin.join(name);
        std::fs::OpenOptions::new().create(true).append(true).open(&shown)?; // something to mount on
        let bind = (c_string(program.as_os_str())?, c_string(shown.as_os_str())?);
        self.prepare(Command::new(shown), Some(bind))
    }

    fn prepare(&self, mut command: Command, bind: Option<(CString, CString)>) -> Result<Command> {
        let (netns, procs, user) = (self.netns.clone(), self.cgroup.procs()?, self.user);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir(&self.bin);
        command.env("HOME", &self.bin);
        command.process_group(0); // a terminal's Ctrl-C is for the lab's owner, who then ends these
        let enter = move || -> io::Result<()> {
            rustix::io::write(&procs, b"0")?;
            netns::enter(netns.as_fd())?;
            if let Some((program, shown)) = &bind {
                // SAFETY: the child has one thread and execs next; CLONE_NEWNS shares nothing with others.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount_change(c"/", private)?;
                mount_bind(program.as_c_str(), shown.as_c_str())?;
            }
            if let Some(id) = user {
                // These are the plain system calls for one thread: the child has only one.
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_gid(Gid::from_raw(id))?;
                rustix::thread::set_thread_uid(Uid::from_raw(id))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls on values made before the fork; it neither
        // allocates nor locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).context("a path with a NUL byte")
}
