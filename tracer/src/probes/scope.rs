//! What is traced, and how each family is told: the cgroup family by where its hooks are attached, the others by numbers
//! in their settings. All of it is decided in the kernel, so what is out of scope makes no record.

use std::{fs::File, os::fd::AsRawFd, os::unix::fs::MetadataExt, path::PathBuf, thread};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use tracer_ebpf::{Settings, settings::SLOTS};

use super::Family;

/// What is traced.
#[derive(Clone, Debug)]
pub struct Scope {
    /// A cgroup v2 directory: sockets made in it or below it.
    pub cgroup: PathBuf,
    /// It is the hierarchy's root, or what this process sees as that.
    pub is_everything: bool,
    /// Network namespaces, such as `/run/netns/NAME` or `/proc/PID/ns/net`; none: all.
    pub netns: Vec<PathBuf>,
}

impl Scope {
    /// Writes it into the settings of a family.
    pub(super) fn apply(&self, family: Family, mut settings: Settings) -> anyhow::Result<Settings> {
        if self.netns.len() > SLOTS {
            bail!("--netns can be given {SLOTS} times at most");
        }
        for (slot, path) in settings.netns.iter_mut().zip(&self.netns) {
            let file = File::open(path)
                .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
            *slot = match family {
                Family::Fentry | Family::Kprobe => file.metadata()?.ino(),
                Family::Cgroup => cookie(&file).with_context(|| {
                    format!("cannot learn the cookie of the network namespace {}", path.display())
                })?,
            };
        }
        if !self.is_everything && family != Family::Cgroup {
            // The inode number of a cgroup v2 directory is the cgroup's id, on 64-bit machines since 5.5.
            let metadata = self.cgroup.metadata();
            settings.cgroup =
                metadata.with_context(|| format!("cannot find the cgroup {}", self.cgroup.display()))?.ino();
        }
        Ok(settings)
    }
}

/// What `bpf_get_netns_cookie` gives for sockets of this namespace: a socket made in it knows.
fn cookie(netns: &File) -> anyhow::Result<u64> {
    let asked = thread::scope(|scope| {
        scope
            .spawn(|| -> anyhow::Result<u64> {
                setns(netns, CloneFlags::CLONE_NEWNET).context(
                    "cannot enter it: this needs CAP_SYS_ADMIN, and it must be a network namespace",
                )?;
                let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
                    .or_else(|_| std::net::UdpSocket::bind(("::", 0)))
                    .context("cannot make a socket in it")?;
                netns_cookie(&socket)
            })
            .join()
    });
    asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn netns_cookie(socket: &std::net::UdpSocket) -> anyhow::Result<u64> {
    let (mut cookie, mut len) = (0u64, 8);
    // SAFETY: the descriptor is open, `cookie` has the 8 bytes that `len` says.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if failed != 0 {
        return Err(std::io::Error::last_os_error())
            .context("the kernel does not tell it (before 5.14); use --cgroup, or another family of probes");
    }
    Ok(cookie)
}

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/asm-generic/socket.h#L125>
const SO_NETNS_COOKIE: libc::c_int = 71;
