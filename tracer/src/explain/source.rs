//! Reads the configuration from a file or from the admin port of a running sidecar, in bounded amounts.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Args;
use super::admin::{self, MAX_DUMP};
use crate::netns;

/// The largest `--head`: `http_inspector` looks at 64 KiB.
const MAX_HEAD: u64 = 64 << 10;

/// A place that a configuration dump comes from.
pub(super) enum Source {
    File(PathBuf),
    Process { pid: u32, admin_port: u16 },
}

impl Source {
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        match (&args.config_dump, args.pid, &args.pod) {
            (Some(path), ..) => Ok(Self::File(path.clone())),
            (None, Some(pid), _) => Ok(Self::Process { pid, admin_port: args.admin_port }),
            (None, None, Some(pod)) => bail!(
                "--pod {} needs the container runtime of the pod's node, and none is found here; name its socket with \
                 --runtime-endpoint, or use --pid with any process of the pod, or --config-dump with a saved dump",
                tracer_core::escape::escape(pod)
            ),
            (None, None, None) => {
                bail!("say where the configuration is: --config-dump FILE, --pid PID or --pod NS/NAME")
            }
        }
    }

    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) if path == Path::new("-") => {
                bounded(std::io::stdin().lock(), MAX_DUMP).context("cannot read the dump from standard input")
            }
            Self::File(path) => {
                let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                bounded(file, MAX_DUMP).with_context(|| format!("cannot read {}", path.display()))
            }
            Self::Process { pid, admin_port } => {
                let admin_port = *admin_port;
                netns::run_in(&netns::of_process(*pid)?, || admin::config_dump(admin_port))?
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) if path == Path::new("-") => formatter.write_str("standard input"),
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Process { pid, admin_port } => {
                write!(formatter, "what port {admin_port} in the namespace of process {pid} answered")
            }
        }
    }
}

/// The bytes of `--head`.
pub(super) fn read_head(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    bounded(file, MAX_HEAD).with_context(|| format!("cannot read {}", path.display()))
}

fn bounded(reader: impl Read, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        bail!("it is larger than {limit} bytes, the most that is read");
    }
    Ok(bytes)
}
