//! The janitor: a small process outside the lab that takes everything down when the lab's owner lets go of it or dies,
//! whichever way (`kill -9` included). It is the only code that removes the lab's cgroup and directory.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Waits on a pipe from its owner; the pipe's end is its only signal.
///
/// A killed process leaves its cgroup some microseconds later, and `rmdir` answers EBUSY until then; a shell has
/// nothing to wait on for that, so it tries again.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT PIPE
read -r _
for _ in $(seq 500); do
    echo 1 2>/dev/null > "$1/cgroup.kill" || # Linux 5.14
        find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$1" ] || break
    sleep 0.01
done
rm -rf -- "$2"
[ ! -d "$1" ]
"#;

/// The process; dropping it makes it clean up, and waits until it has.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
}

impl Janitor {
    /// Starts it for a cgroup, with all that is in it, and a directory. Neither has to be there yet: hired first, it cannot
    /// come too late.
    pub fn hire(cgroup: &Path, dir: &Path) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "lab-janitor"]).arg(cgroup).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).current_dir("/");
        // SAFETY: setsid is one async-signal-safe system call; it keeps a terminal's Ctrl-C from the janitor.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) };
        Ok(Self { child: command.spawn().context("cannot start the lab's janitor (/bin/sh)")? })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes the lab down now, and returns when that is done.
    pub fn dismiss(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the lab's janitor could not remove its cgroup ({status})");
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        if let Err(error) = self.dismiss() {
            eprintln!("{error:#}");
        }
    }
}
