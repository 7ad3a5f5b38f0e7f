//! A small process outside the lab that removes the lab's cgroup, processes and directory when the lab's owner drops it
//! or dies, also by SIGKILL. No other code removes them.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Waits for the end of the pipe from its owner.
///
/// A killed process leaves its cgroup some microseconds later, and `rmdir` returns EBUSY until then. A shell cannot
/// wait for that event, so it tries again.
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

/// The janitor's process. Dropping it cleans up, and waits until that is done.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
}

impl Janitor {
    /// Starts the janitor for a cgroup, with everything below it, and a directory. Started before they exist, it cannot
    /// miss them.
    pub fn spawn(cgroup: &Path, dir: &Path) -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "lab-janitor"]).arg(cgroup).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).current_dir("/");
        // SAFETY: setsid is one async-signal-safe system call. It keeps a terminal's Ctrl-C from the janitor.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) };
        Ok(Self { child: command.spawn().context("cannot start the lab's janitor (/bin/sh)")? })
    }

    /// The janitor's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes the lab down, and returns when that is done.
    pub fn clean_up(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the lab's janitor could not remove its cgroup ({status})");
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("{error:#}");
        }
    }
}
