//! Loads the kernel programs, attaches them to a scope, and holds them: they are gone when this is dropped, however
//! the process ends. It makes nothing of what they say.

mod cgroup;
mod level;
pub mod ring;
mod statistics;

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, bail};
use aya::{Ebpf, EbpfLoader, maps::PerCpuArray};
use serde::{Deserialize, Serialize};
use tracer_ebpf::{Loss, Settings};

pub use ring::{Batch, Ring};
pub use statistics::{Sweep, Timing};

/// The kernel object, built by `build.rs`; empty where it was told to skip that.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EGRESS_TRACER_BPF_OBJECT"));

/// A flavour of kernel hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// cgroup hooks: stable UAPI, also where the kernel refuses tracing programs.
    Cgroup,
}

impl Family {
    /// Its name, as in `--probes` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is traced.
#[derive(Clone, Debug)]
pub struct Scope {
    /// A cgroup v2 directory: sockets made in it or below it.
    pub cgroup: PathBuf,
}

/// The programs of one family, attached.
pub struct Probes {
    family: Family,
    ebpf: Ebpf,
}

impl Probes {
    /// Loads and attaches a family.
    ///
    /// # Errors
    /// Which hook the kernel refused, and its reason.
    pub fn attach(family: Family, scope: &Scope, settings: Settings) -> anyhow::Result<Self> {
        if OBJECT.is_empty() {
            bail!(
                "this egress-tracer was built without its kernel programs (EGRESS_TRACER_SKIP_BPF was set); \
                 build it again without that"
            );
        }
        let settings = GlobalSettings(settings);
        let mut ebpf = EbpfLoader::new().override_global("SETTINGS", &settings, true).load(OBJECT).context(
            "cannot load the kernel programs' maps: this needs CAP_BPF and CAP_NET_ADMIN, or root",
        )?;
        match family {
            Family::Cgroup => cgroup::attach(&mut ebpf, &scope.cgroup)?,
        }
        Ok(Self { family, ebpf })
    }

    /// Which family this is.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The names of the attached programs.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        match self.family {
            Family::Cgroup => cgroup::PROGRAMS.iter().copied(),
        }
    }

    /// The reader's end of the ring. There is one.
    pub fn take_ring(&mut self) -> anyhow::Result<Ring> {
        let map = self.ebpf.take_map("RECORDS").context("the ring was taken before")?;
        Ring::new(map)
    }

    /// Records that could not be written since the start, by reason.
    pub fn losses(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let map = self.ebpf.map("LOSSES").context("the kernel object has no map LOSSES")?;
        let losses = PerCpuArray::<_, u64>::try_from(map)?;
        Loss::ALL
            .into_iter()
            .map(|(reason, label)| {
                let per_cpu = losses.get(&(reason as u32), 0).context("cannot read the loss counters")?;
                Ok((label, per_cpu.iter().sum()))
            })
            .collect()
    }
}

/// aya asks for a `Pod` of this crate's own.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GlobalSettings(Settings);

// SAFETY: `Settings` is `repr(C)`, integers only, without padding: 8 + 4*2 + 4*2 + 4*4 bytes.
unsafe impl aya::Pod for GlobalSettings {}
const _: () = assert!(size_of::<Settings>() == 40);
