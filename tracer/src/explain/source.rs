//! Reads one proxy's configuration from files or from the admin port of a running sidecar, in bounded amounts.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use tracer_core::escape::escape;
use tracer_core::pod::{container_ids, paths};
use tracer_mesh::Dump;

use super::Args;
use super::admin;
use super::archive::{self, FoundDump};
use super::input;
use crate::netns;

/// A place that a configuration comes from.
pub(super) enum Source<'a> {
    /// Files, each a whole dump or a part; `pod` chooses one of several dumps.
    Files {
        paths: &'a [PathBuf],
        pod: Option<String>,
    },
    Process {
        pid: u32,
        admin_port: u16,
    },
    /// This process's own network namespace, as in an ephemeral container of the pod. It needs no right.
    Own {
        admin_port: u16,
    },
}

/// How many pods a message lists.
const LISTED: usize = 8;

impl<'a> Source<'a> {
    pub(super) fn of(args: &'a Args) -> anyhow::Result<Self> {
        match (args.config_dump.as_slice(), args.pid, &args.pod) {
            ([], Some(pid), _) => Ok(Self::Process { pid, admin_port: args.admin_port }),
            ([], None, Some(pod)) => bail!(
                "--pod {} needs the container runtime of the pod's node, and none is found here; name its socket with \
                 --runtime-endpoint, or use --pid with any process of the pod, or --config-dump with a saved dump",
                escape(pod)
            ),
            ([], None, None) => Ok(Self::Own { admin_port: args.admin_port }),
            (paths, ..) => Ok(Self::Files { paths, pod: args.whole_pod() }),
        }
    }

    /// The configuration.
    pub(super) fn load(&self) -> anyhow::Result<Dump> {
        let parts = match self {
            Self::Files { paths, pod } => files(paths, pod.as_deref())?,
            Self::Process { pid, admin_port } => {
                let admin_port = *admin_port;
                let answer = netns::run_in(&netns::of_process(*pid)?, || admin::config_dump(admin_port))?;
                vec![answer.map_err(|error| match outside_of_pods(*pid) {
                    Some(note) => error.context(note),
                    None => error,
                })?]
            }
            Self::Own { admin_port } => {
                let answer = admin::config_dump(*admin_port).context(
                    "this network namespace has no sidecar; say where the configuration is: --config-dump FILE, --pid PID or \
                     --pod NS/NAME",
                );
                vec![answer?]
            }
        };
        load(parts).with_context(|| format!("cannot use {self}"))
    }
}

/// A sentence on a process that is in no container, so in no pod. `None`: it is in one, or that cannot be told.
fn outside_of_pods(pid: u32) -> Option<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    // The root of a cgroup namespace says nothing about what is above it.
    let path = paths(&table).find(|path| *path != "/")?;
    if paths(&table).any(|path| container_ids(path).next().is_some()) {
        return None;
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!(
        "process {pid} ({}) is in no pod, by its cgroup {}, so it has no sidecar",
        escape(name.trim()),
        escape(path)
    ))
}

/// Reads the parts of one proxy's configuration.
pub(super) fn load(parts: Vec<Vec<u8>>) -> anyhow::Result<Dump> {
    let text = input::dump_text(parts).map_err(|error| anyhow!("it {error}"))?;
    match Dump::load(text) {
        Err(tracer_mesh::Error::Json(error)) => Err(anyhow!("it {}", input::json_error(error))),
        other => Ok(other?),
    }
}

/// The parts in all of the files, where each is of the same proxy.
fn files(paths: &[PathBuf], pod: Option<&str>) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    for path in paths {
        let mut found: Vec<FoundDump> = Vec::new();
        let mut errors = Vec::new();
        archive::find(path, &mut |dump| match dump {
            Ok(dump) => found.push(dump),
            Err(error) => errors.push(error),
        })?;
        if let Some(pod) = pod
            && found.iter().any(|dump| dump.pod.is_some())
        {
            let known = listed(&found);
            found.retain(|dump| dump.pod.as_deref() == Some(pod));
            if found.is_empty() {
                bail!("{} has no dump of pod {}; it has {known}", path.display(), escape(pod));
            }
        }
        match (found.len(), errors.pop()) {
            (0, Some(error)) => return Err(error),
            (1, _) => {}
            (count, _) => bail!(
                "{} has {count} dumps: choose one with --pod NS/NAME, or ask about all with `egress-tracer audit`; it has \
                 {}",
                path.display(),
                listed(&found)
            ),
        }
        parts.extend(found.into_iter().map(|dump| dump.bytes));
    }
    Ok(parts)
}

fn listed(found: &[FoundDump]) -> String {
    let names: Vec<&str> =
        found.iter().take(LISTED).map(|dump| dump.pod.as_deref().unwrap_or(&dump.label)).collect();
    match found.len().saturating_sub(LISTED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { paths, .. } => {
                let name = |path: &PathBuf| {
                    if path == Path::new("-") {
                        "standard input".to_owned()
                    } else {
                        path.display().to_string()
                    }
                };
                formatter.write_str(&paths.iter().map(name).collect::<Vec<_>>().join(", "))
            }
            Self::Process { pid, admin_port } => {
                write!(formatter, "what port {admin_port} in the namespace of process {pid} answered")
            }
            Self::Own { admin_port } => {
                write!(formatter, "what port {admin_port} in this network namespace answered")
            }
        }
    }
}
