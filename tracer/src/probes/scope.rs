//! What is traced, and how each family is told. The kernel decides, so traffic out of scope makes no record.

use std::{
    fs::File,
    net::UdpSocket,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tracer_ebpf::{ProbeSettings, settings::SLOTS};

use super::family::{CgroupScope, FamilySpec, NamespaceIdentity};
use crate::netns;

/// What is traced.
#[derive(Clone, Debug)]
pub struct CaptureScope {
    /// A cgroup v2 directory: sockets made in it or below it.
    pub cgroup: PathBuf,
    /// That directory is the root of the hierarchy, as this process sees it.
    pub is_everything: bool,
    /// Network namespaces, such as `/run/netns/NAME` or `/proc/PID/ns/net`; empty: all.
    pub netns: Vec<PathBuf>,
}

impl CaptureScope {
    /// Writes the scope into the settings of a family.
    pub(super) fn apply(
        &self,
        family: &FamilySpec,
        mut settings: ProbeSettings,
    ) -> anyhow::Result<ProbeSettings> {
        if self.netns.len() > SLOTS {
            bail!("--netns can be given {SLOTS} times at most");
        }
        for (slot, path) in settings.netns.iter_mut().zip(&self.netns) {
            *slot = namespace(family, path)?;
        }
        settings.host_netns = namespace(family, Path::new(HOST_NETNS)).unwrap_or_else(|error| {
            log::debug!("the node's own network namespace is not known: {error:#}");
            0
        });
        if !self.is_everything && family.cgroups == CgroupScope::Settings {
            // The inode number of a cgroup v2 directory is the cgroup's id, on 64-bit machines since 5.5:
            // https://git.kernel.org/torvalds/c/743210386c03
            let metadata = self.cgroup.metadata();
            settings.cgroup =
                metadata.with_context(|| format!("cannot find the cgroup {}", self.cgroup.display()))?.ino();
        }
        Ok(settings)
    }
}

/// The network namespace of the first process that this one sees.
const HOST_NETNS: &str = "/proc/1/ns/net";

/// The number of a network namespace, as the family's programs see it.
pub(super) fn namespace(family: &FamilySpec, path: &Path) -> anyhow::Result<u64> {
    let file =
        File::open(path).with_context(|| format!("cannot open the network namespace {}", path.display()))?;
    match family.namespaces {
        NamespaceIdentity::Inode => Ok(file.metadata()?.ino()),
        NamespaceIdentity::Cookie => cookie(&file)
            .with_context(|| format!("cannot read the cookie of the network namespace {}", path.display())),
    }
}

/// The namespace's cookie, as `bpf_get_netns_cookie` gives it to the programs. A socket made in the namespace has it.
fn cookie(netns: &File) -> anyhow::Result<u64> {
    netns::run_in(netns, || {
        let socket = UdpSocket::bind(("127.0.0.1", 0))
            .or_else(|_| UdpSocket::bind(("::", 0)))
            .context("cannot make a socket in it")?;
        netns_cookie(&socket)
    })?
}

/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/asm-generic/socket.h#L125>
const SO_NETNS_COOKIE: libc::c_int = 71;

fn netns_cookie(socket: &UdpSocket) -> anyhow::Result<u64> {
    let (mut cookie, mut len) = (0u64, 8);
    // SAFETY: the descriptor is open, and `cookie` has the 8 bytes that `len` says.
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
            .context("the kernel has no namespace cookies (before 5.14); use --cgroup, or another --family");
    }
    Ok(cookie)
}
