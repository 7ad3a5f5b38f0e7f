//! What is traced and how: the arguments of every command that loads probes, and the settings made from them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use tracer_ebpf::{
    ProbeSettings,
    settings::{DEFAULT_IN_SCOPE, DEFAULT_OUT_OF_SCOPE, NO_SCOPES, NO_UID, SLOTS},
};

use super::pods;
use crate::{
    audit::ProcessScope,
    files::{OutputFile, write_ready_file},
    live, metrics,
    pipeline::{Pipeline, clock_offset},
    privilege,
    probes::{CaptureScope, FamilySpec, Probes},
    runtime::Runtime,
};
use tracer_core::{mesh_profile::DEFAULT, selector::PodChoice};

/// What is traced.
#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(next_help_heading = "Probes")]
pub(super) struct Args {
    /// Only sockets made in this cgroup v2 directory or below it [default: the whole node]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Only sockets of this network namespace, such as /proc/PID/ns/net; may be repeated [default: all]
    #[arg(long, value_name = "PATH")]
    netns: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) pods: pods::Args,
    /// The probe family: the kernel hooks to use
    #[arg(long, alias = "probes", value_name = "FAMILY", default_value = AUTO, value_parser = family_parser())]
    family: FamilyChoice,
    /// How long a request may wait for its answer before it is reported as unanswered
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    deadline: Duration,
    /// A hint: every pod's interceptor accepts redirected connections on this port; may be repeated [default: observed]
    #[arg(long, value_name = "PORT")]
    sidecar_port: Vec<u16>,
    /// A hint: every pod's interceptor accepts connections from outside on this port; may be repeated [default: observed]
    #[arg(long, value_name = "PORT")]
    sidecar_inbound_port: Vec<u16>,
    /// A hint: every process of this user id is an interceptor's; may be repeated [default: observed]
    #[arg(long, value_name = "UID")]
    sidecar_uid: Vec<u32>,
    /// How many connections, and how many upstream sockets, are followed at once; beyond that the oldest are dropped
    #[arg(long, value_name = "N", default_value_t = tracer_core::engine::Settings::DEFAULT_CAPACITY)]
    capacity: usize,
    /// How many records a second the processes of one cgroup may make; more are counted and not written, so that one pod's
    /// flood costs the others nothing
    #[arg(long, value_name = "N", default_value_t = ProbeSettings::RECORD_RATE, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    record_rate: u64,
    #[command(flatten)]
    pub(super) metrics: metrics::MetricsArgs,
    /// The admin port of sidecars, for explanations
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT.admin_port)]
    pub(super) admin_port: u16,
    /// Write this file once all hooks are attached
    #[arg(long, value_name = "FILE")]
    pub(super) ready_file: Option<PathBuf>,
    /// The node's name, for reports
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: Option<String>,
}

/// How long a report waits for its pod's name.
const NAMING: Duration = Duration::from_secs(1);

/// The value of `--family` that stands for the first family that attaches.
const AUTO: &str = "auto";

/// The probe family to use; `None`: the first that attaches.
#[derive(Clone, Copy, Debug)]
struct FamilyChoice(Option<&'static FamilySpec>);

fn family_parser() -> impl TypedValueParser<Value = FamilyChoice> {
    let families = FamilySpec::ALL.map(|family| PossibleValue::new(family.name).help(family.summary));
    let auto = PossibleValue::new(AUTO).help("The first family that attaches: fentry, kprobe, cgroup");
    PossibleValuesParser::new([auto].into_iter().chain(families))
        .map(|name| FamilyChoice(FamilySpec::named(&name)))
}

impl Args {
    /// Loads and attaches the probes for every pod, and records events to `record` where one is given.
    pub(super) fn attach(&self, record: Option<&OutputFile>) -> anyhow::Result<Pipeline> {
        self.attach_to(PodChoice::default(), record)
    }

    /// Loads and attaches the probes for the pods of `choice`, and records events to `record` where one is given.
    pub(super) fn attach_to(
        &self,
        choice: PodChoice,
        record: Option<&OutputFile>,
    ) -> anyhow::Result<Pipeline> {
        if let Some(missing) = privilege::missing_for_probes() {
            bail!("{missing}");
        }
        if self.netns.len() > SLOTS {
            bail!("--netns can be given {SLOTS} times at most, and is given {} times", self.netns.len());
        }
        for netns in &self.netns {
            File::open(netns)
                .with_context(|| format!("cannot open the network namespace {}", netns.display()))?;
        }
        let endpoint = self.pods.endpoint();
        if endpoint.is_none() && !choice.is_everything() {
            bail!(
                "pods are chosen by namespace and label, which only the container runtime knows, and none is found here; \
                 name its socket with --runtime-endpoint"
            );
        }
        let cgroup = self.scope()?;
        let is_everything = cgroup == cgroup2_root()?;
        let scope = CaptureScope { cgroup, is_everything, netns: self.netns.clone() };
        let mut settings = ProbeSettings::DEFAULT;
        settings.default_scope = match &endpoint {
            None => NO_SCOPES,
            Some(_) if choice.is_everything() => DEFAULT_IN_SCOPE,
            Some(_) => DEFAULT_OUT_OF_SCOPE,
        };
        settings.outbound_ports = slots("--sidecar-port", &self.sidecar_port, 0)?;
        settings.inbound_ports = slots("--sidecar-inbound-port", &self.sidecar_inbound_port, 0)?;
        settings.sidecar_uids = slots("--sidecar-uid", &self.sidecar_uid, NO_UID)?;
        settings.worker_name = first_bytes(DEFAULT.thread_prefix);
        settings.watch_ns = nanoseconds(self.deadline);
        settings.records_per_window = ProbeSettings::window(self.record_rate);
        let probes = match self.family.0 {
            None => Probes::attach_best(&scope, settings),
            Some(family) => Probes::attach(family, &scope, settings),
        }?;
        let family = probes.family();
        log::info!("attached the {family} hooks to {}", scope.cgroup.display());
        let core = tracer_core::engine::Settings {
            deadline: nanoseconds(self.deadline),
            clock_offset: clock_offset(),
            inbound_ports: self.sidecar_inbound_port.clone(),
            capacity: self.capacity,
            keep: nanoseconds(Duration::from_hours(1)),
            node: self.node.clone(),
            family: family.name.into(),
            owner_wait: if endpoint.is_some() { nanoseconds(NAMING) } else { 0 },
            owner_ttl: nanoseconds(self.pods.remember_pods),
        };
        let root = cgroup2_root()?;
        if endpoint.is_none() {
            log::info!(
                "no container runtime is found, so pods have no names; --runtime-endpoint names its socket"
            );
        }
        let runtime = endpoint.map(|endpoint| Runtime::spawn(endpoint, root, choice));
        Pipeline::new(probes, core, runtime, record)
    }

    fn scope(&self) -> anyhow::Result<PathBuf> {
        let root = cgroup2_root()?;
        let Some(dir) = &self.cgroup else { return Ok(root) };
        let given = dir.canonicalize().with_context(|| {
            format!(
                "cannot find the cgroup {}; cgroup v2 directories are below {}",
                dir.display(),
                root.display()
            )
        })?;
        if !given.join("cgroup.procs").exists() || !given.starts_with(&root) {
            bail!("{} is not a cgroup v2 directory; they are below {}", dir.display(), root.display());
        }
        Ok(given)
    }

    /// The ports on which a sidecar's configuration is asked about redirected connections.
    pub(super) fn redirect_ports(&self) -> Vec<u16> {
        if self.sidecar_port.is_empty() { vec![DEFAULT.outbound_port] } else { self.sidecar_port.clone() }
    }

    /// Limits the scope to a network namespace, unless one was given.
    pub(super) fn limit_to(&mut self, netns: PathBuf) {
        if self.cgroup.is_none() && self.netns.is_empty() {
            self.netns.push(netns);
        }
    }

    /// Which processes an audit looks at.
    pub(super) fn processes(&self) -> ProcessScope {
        ProcessScope { pids: Vec::new(), cgroup: self.cgroup.clone(), admin_port: self.admin_port }
    }

    /// The scope as `status` shows it.
    pub(super) fn summary(&self, pods: Vec<String>) -> live::StatusScope {
        live::StatusScope { cgroup: self.cgroup.clone(), netns: self.netns.clone(), pods }
    }

    /// The first given flag that an agent cannot serve, so that this process must load its own probes.
    pub(super) fn needs_own_probes(&self) -> Option<&'static str> {
        if self.cgroup.is_some() {
            Some("--cgroup")
        } else if !self.netns.is_empty() {
            Some("--netns")
        } else if self.family.0.is_some() {
            Some("--family")
        } else if self.metrics.metrics_address.is_some() {
            Some("--metrics-address")
        } else {
            None
        }
    }

    /// Writes the ready file: all hooks are attached.
    pub(super) fn write_ready_file(&self) -> anyhow::Result<()> {
        let Some(file) = &self.ready_file else { return Ok(()) };
        write_ready_file(file)
    }
}

/// Where cgroup v2 is mounted, alone or beside v1.
pub(super) fn cgroup2_root() -> anyhow::Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mounts";
    let mounts = std::fs::read_to_string(MOUNTS).with_context(|| format!("cannot read {MOUNTS}"))?;
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (dir, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| Path::new(dir).to_owned())
    });
    root.context("cgroup v2 is not mounted here; mount it, e.g. at /sys/fs/cgroup/unified")
}

/// The first eight bytes of a name, NUL-padded.
fn first_bytes(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let len = name.len().min(bytes.len());
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    u64::from_ne_bytes(bytes)
}

fn slots<T: Copy>(flag: &str, given: &[T], empty: T) -> anyhow::Result<[T; SLOTS]> {
    if given.len() > SLOTS {
        bail!("{flag} can be given {SLOTS} times at most");
    }
    let mut slots = [empty; SLOTS];
    slots[..given.len()].copy_from_slice(given);
    Ok(slots)
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
