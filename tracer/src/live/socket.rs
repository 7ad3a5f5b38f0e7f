//! The agent's socket in the file system, for root only. A new agent replaces the socket of a dead one, and refuses to replace
//! that of a running one.

use std::{
    fs::{DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, umask},
};
use tokio::net::UnixListener;

use crate::files::open_lock;

/// A bound socket, with a lock that tells other agents that this one runs. The socket is removed on drop. After a kill, the
/// kernel has released the lock, and the next agent replaces the socket.
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    _lock: Flock<File>,
}

impl Socket {
    /// Binds the socket.
    ///
    /// # Errors
    /// Another agent runs, or a file cannot be made.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let dir = path.parent().context("--socket needs the path of a file in a directory")?;
        if !dir.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
                format!(
                    "cannot make the directory {} for the agent's socket; choose another --socket",
                    dir.display()
                )
            })?;
        }
        let lock_path = path.with_extension("lock");
        let lock = open_lock(&lock_path).with_context(|| {
            format!("cannot write {} beside the agent's socket; choose another --socket", lock_path.display())
        })?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EAGAIN)) => {
                bail!("another agent serves at {}: stop it first, or choose another --socket", path.display())
            }
            Err((_, error)) => bail!("cannot lock {}: {error}", lock_path.display()),
        };
        // Made under another name and moved: no client can connect before the mode is set, and a dead agent's socket is
        // replaced.
        let temporary = path.with_extension(format!("{}", std::process::id()));
        remove(&temporary)?;
        // By the mask and not by a path, which may be another file a moment later.
        let mask = umask(Mode::S_IXUSR | Mode::S_IRWXG | Mode::S_IRWXO);
        let listener = UnixListener::bind(&temporary);
        umask(mask);
        let listener = listener.with_context(|| {
            format!("cannot serve live sessions at {}; choose another --socket", path.display())
        })?;
        std::fs::rename(&temporary, path)
            .with_context(|| format!("cannot put the agent's socket at {}", path.display()))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock file stays: the next agent may have locked it already.
        if let Err(error) = remove(&self.path) {
            log::warn!("{error:#}");
        }
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt as _, net::UnixStream};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn socket_of_a_dead_agent_is_replaced_and_that_of_a_running_one_is_not() {
        let (runtime, dir) = (runtime(), tempfile::tempdir().expect("a directory"));
        let _inside = runtime.enter();
        let path = dir.path().join("run/agent.sock");
        let running = Socket::bind(&path).expect("a socket");
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(dir.path().join("run")).expect("it is there").mode() & 0o777, 0o700);
        let error = Socket::bind(&path).err().expect("it is taken");
        assert!(error.to_string().contains("another agent serves at"), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "the running agent still listens");
        drop(running);
        assert!(!path.exists());
        // A killed agent leaves a socket on which no process listens.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        assert!(UnixStream::connect(&path).is_err());
        let _next = Socket::bind(&path).expect("it is replaced");
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn file_in_place_of_the_directory_is_an_error_that_names_the_flag() {
        let (runtime, dir) = (runtime(), tempfile::tempdir().expect("a directory"));
        let _inside = runtime.enter();
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = Socket::bind(&file.join("agent.sock")).err().expect("a file is no directory");
        assert!(format!("{error:#}").contains("--socket"), "{error:#}");
    }
}
