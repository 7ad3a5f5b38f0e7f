//! Where a process of the lab runs: its network namespace, its cgroup, its user. The process enters them before exec,
//! because a socket keeps the cgroup in which it was made.

use std::ffi::{CStr, CString};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Gid, Uid};
use rustix::thread::UnshareFlags;

use crate::cgroup::TestCgroup;
use crate::netns::{self, Netns};

/// The system's own `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which process group a process gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// A group of its own, without a terminal.
    Own,
    /// The caller makes it the leader of a session.
    Session,
}

/// A network namespace, a cgroup and a user for processes.
#[derive(Debug, Clone)]
pub struct Place {
    pub(crate) netns: Netns,
    pub(crate) cgroup: TestCgroup,
    /// User and group id; `None`: root.
    pub(crate) user: Option<u32>,
    /// A directory for programs that every user can enter.
    pub(crate) bin: PathBuf,
    /// A file that processes here see as `/etc/hosts`.
    pub(crate) hosts: Option<CString>,
    /// A file that processes here see as `/etc/resolv.conf`.
    pub(crate) resolver: Option<CString>,
}

impl Place {
    /// The network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A place of this namespace and cgroup for another user; `None`: root.
    #[must_use]
    pub fn as_user(&self, user: Option<u32>) -> Self {
        Self { user, ..self.clone() }
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &TestCgroup {
        &self.cgroup
    }

    /// A command for a system program, found on the system's `PATH`, with a clean environment.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.prepare(Command::new(program), Group::Own)
    }

    /// A command for a process that will lead a session with a terminal.
    pub(crate) fn session_command(&self, program: &Path) -> Result<Command> {
        self.prepare(Command::new(self.show(program)?), Group::Session)
    }

    /// A command for a program that the place's user may not be able to reach, such as one below `/root`. The program
    /// gets a hard link of the same name in a directory that every user can enter. (A bind mount does not work in a
    /// chroot.)
    pub fn command_at(&self, program: &Path) -> Result<Command> {
        self.prepare(Command::new(self.show(program)?), Group::Own)
    }

    pub(crate) fn show(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
        let which =
            fs::metadata(program).with_context(|| format!("cannot run {} in the lab", program.display()))?;
        let dir = self.bin.join(format!("{}-{}", which.dev(), which.ino())); // two releases of Envoy are both `envoy`
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        let shown = dir.join(name);
        match fs::hard_link(program, &shown) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {} // an earlier process runs it, too
            Err(_) => {
                // Another file system: make a copy, under a temporary name first, because two processes may make it at
                // once.
                let copy = tempfile::NamedTempFile::new_in(&dir)?.into_temp_path();
                fs::copy(program, &copy)
                    .and_then(|_| fs::rename(&copy, &shown))
                    .with_context(|| format!("cannot bring {} into the lab", program.display()))?;
            }
            Ok(()) => {}
        }
        Ok(shown)
    }

    fn prepare(&self, mut command: Command, group: Group) -> Result<Command> {
        let (netns, procs, user) = (self.netns.clone(), self.cgroup.procs()?, self.user);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").current_dir(&self.bin);
        command.env("HOME", &self.bin);
        // Keeps the process away from an agent of the machine or of another lab.
        command.env("EGRESS_TRACER_SOCKET", self.bin.with_file_name("run").join("agent.sock"));
        if group == Group::Own {
            command.process_group(0); // a terminal's Ctrl-C goes to the lab's owner, which then ends these
        }
        let names = [(self.hosts.clone(), c"/etc/hosts"), (self.resolver.clone(), c"/etc/resolv.conf")];
        let enter = move || -> io::Result<()> {
            rustix::io::write(&procs, b"0")?;
            show_names(&names)?;
            netns::enter(netns.as_fd())?;
            if let Some(id) = user {
                // These system calls change one thread; the child has only one.
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_gid(Gid::from_raw(id))?;
                rustix::thread::set_thread_uid(Uid::from_raw(id))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec, the closure makes system calls on values made before the fork. It neither
        // allocates nor locks.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

/// Gives the child a mount namespace of its own, in which these files are the tables of names.
fn show_names(names: &[(Option<CString>, &CStr)]) -> rustix::io::Result<()> {
    if names.iter().all(|(file, _)| file.is_none()) {
        return Ok(());
    }
    // SAFETY: the child has one thread, and no memory or descriptor is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Nothing that is mounted from here on reaches the machine.
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    names
        .iter()
        .try_for_each(|(file, at)| file.as_ref().map_or(Ok(()), |file| mount_bind(file.as_c_str(), *at)))
}
