//! Loads the kernel programs, attaches them to a scope, and holds them: they are gone when this is dropped, however
//! the process ends. It makes nothing of what they say.

mod interval;
mod hook;
mod kernel_log;
pub mod btf_offsets;
mod ring_usage;
mod preflight;
pub mod ring;
mod scope;
mod statistics;
pub mod probe_support;

use std::{
    fmt,
    fs::File,
    hash::{BuildHasher as _, RandomState},
};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use serde::{Deserialize, Serialize};
use tracer_ebpf::{BtfOffsets, Loss, Settings};

use hook::explain;
pub use hook::{Hook, Point};
pub use kernel_log::KernelLog;
pub use ring::Ring;
pub use scope::Scope;
pub use statistics::{Stores, Timing};

/// The kernel object, built by `build.rs`; empty where it was told to skip that.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EGRESS_TRACER_BPF_OBJECT"));

/// A flavour of kernel hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Trampolines at the entry of kernel functions: the cheapest.
    Fentry,
    /// Breakpoints at the entry of the same functions.
    Kprobe,
    /// cgroup hooks: stable UAPI, also where the kernel refuses tracing programs.
    Cgroup,
}

impl Family {
    /// In the order of preference.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Cgroup];

    /// Its name, as in `--probes` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Cgroup => "cgroup",
        }
    }

    /// Its hooks, in the order in which they are attached.
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Fentry => hook::FENTRY,
            Self::Kprobe => hook::KPROBE,
            Self::Cgroup => hook::CGROUP,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The programs of one family, attached.
pub struct Probes {
    family: Family,
    ebpf: Ebpf,
    log: Option<KernelLog>,
}

impl Probes {
    /// Loads and attaches the first family that this kernel takes, and says why it did not take the ones before.
    pub fn attach_best(scope: &Scope, settings: Settings) -> anyhow::Result<Self> {
        preflight::ring_buffers()?;
        let mut refused = Vec::new();
        for family in Family::ALL {
            match Self::attach_hooks(family, scope, settings) {
                Ok(probes) => return Ok(probes),
                Err(error) => {
                    log::info!("no {family} probes: {error:#}");
                    refused.push(format!("{family}: {error:#}"));
                }
            }
        }
        bail!("this kernel takes no family of probes; {}", refused.join("; "))
    }

    /// Loads and attaches a family.
    ///
    /// # Errors
    /// Which hook the kernel refused, and its reason.
    pub fn attach(family: Family, scope: &Scope, settings: Settings) -> anyhow::Result<Self> {
        preflight::ring_buffers()?;
        Self::attach_hooks(family, scope, settings)
    }

    fn attach_hooks(family: Family, scope: &Scope, settings: Settings) -> anyhow::Result<Self> {
        preflight::check(family)?;
        let settings = scope.apply(family, settings)?;
        let mut ebpf = open(family, settings)?;
        let log = KernelLog::open(&mut ebpf)?;
        let btf = kernel_btf(family)?;
        let cgroup = File::open(&scope.cgroup).with_context(|| {
            format!("cannot open the cgroup {}; is it a cgroup v2 directory?", scope.cgroup.display())
        })?;
        for hook in family.hooks() {
            hook.load(&mut ebpf, btf.as_ref())
                .and_then(|()| hook.attach(&mut ebpf, &cgroup))
                .map_err(|error| anyhow!("{}", explain(&error)))
                .with_context(|| {
                    format!(
                        "the kernel refused the {family} hook {} (`egress-tracer check` shows what it offers)",
                        hook.point.name()
                    )
                })?;
        }
        give_back_memory();
        Ok(Self { family, ebpf, log: Some(log) })
    }

    /// Which family this is.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The names of the attached programs.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.family.hooks().iter().map(|hook| hook.program)
    }

    /// The reader's end of the ring. There is one.
    pub fn take_ring(&mut self) -> anyhow::Result<Ring> {
        let records = self.ebpf.take_map("RECORDS").context("the ring was taken before")?;
        let reader = self.ebpf.take_map("READER").context("the kernel object has no map READER")?;
        Ring::new(records, reader)
    }

    /// What the programs themselves log. There is one reader.
    pub fn take_log(&mut self) -> anyhow::Result<KernelLog> {
        self.log.take().context("the kernel's log was taken before")
    }

    /// What lies in this cgroup (v2 id) is traced from now on, or is not.
    pub fn set_scope(&mut self, cgroup: u64, traced: bool) -> anyhow::Result<()> {
        let set = self.scopes()?.insert(cgroup, u64::from(traced), 0);
        set.context("cannot tell the kernel which pods are traced: its map of scopes takes no more")
    }

    /// This cgroup is gone.
    pub fn unset_scope(&mut self, cgroup: u64) -> anyhow::Result<()> {
        match self.scopes()?.remove(&cgroup) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("cannot take a cgroup out of the kernel's map of scopes"),
        }
    }

    fn scopes(&mut self) -> anyhow::Result<HashMap<&mut MapData, u64, u64>> {
        let map = self.ebpf.map_mut("SCOPES").context("the kernel object has no map SCOPES")?;
        Ok(HashMap::try_from(map)?)
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

/// Makes the maps, with what the programs have to know.
fn open(family: Family, mut settings: Settings) -> anyhow::Result<Ebpf> {
    if OBJECT.is_empty() {
        bail!(
            "this egress-tracer was built without its kernel programs (EGRESS_TRACER_SKIP_BPF was set); \
             build it again without that"
        );
    }
    let layout = match family {
        Family::Fentry | Family::Kprobe => btf_offsets::of_this_kernel()?,
        Family::Cgroup => BtfOffsets::UNKNOWN,
    };
    settings.seed = RandomState::new().hash_one(());
    settings.cookies = u64::from(family == Family::Cgroup);
    // The verifier sees a constant, and drops what is not to be logged.
    let level = log::max_level() as u8;
    EbpfLoader::new()
        .override_global(aya_log::LEVEL, &level, true)
        .override_global("SETTINGS", &GlobalSettings(settings), true)
        .override_global("BTF_OFFSETS", &GlobalBtfOffsets(layout), true)
        .load(OBJECT)
        .context("cannot load the kernel programs' maps: this needs CAP_BPF and CAP_NET_ADMIN, or root")
}

/// What takes some MB for a moment, as reading the object does, leaves them to the allocator, which would keep them for as
/// long as the agent lives.
fn give_back_memory() {
    // SAFETY: gives the kernel what nobody uses; it takes a number, and may be called at any time.
    // https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What a fentry program is verified against.
fn kernel_btf(family: Family) -> anyhow::Result<Option<Btf>> {
    match family {
        Family::Fentry => {
            let btf = Btf::from_sys_fs();
            btf.map(Some).with_context(|| format!("cannot read {}", btf_offsets::KERNEL_BTF))
        }
        Family::Kprobe | Family::Cgroup => Ok(None),
    }
}

/// aya asks for a `Pod` of this crate's own.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GlobalSettings(Settings);

// SAFETY: `Settings` is `repr(C)`, integers only, without padding: 8 + 8*4 + 8 + 8 + 8 + 8 + 2*4 + 2*4 + 4*4 bytes.
unsafe impl aya::Pod for GlobalSettings {}
const _: () = assert!(size_of::<Settings>() == 104);

/// As above.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GlobalBtfOffsets(BtfOffsets);

// SAFETY: `BtfOffsets` is `repr(C)`, and all of its fields are `u32`.
unsafe impl aya::Pod for GlobalBtfOffsets {}
