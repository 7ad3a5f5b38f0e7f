//! Loads the kernel programs, attaches them to a scope, and holds them. The kernel removes them when this is dropped,
//! however the process ends.

pub mod btf_offsets;
mod cgroup_owners;
mod family;
mod hook;
mod interceptors;
mod interval;
mod kernel_log;
mod preflight;
pub mod probe_support;
pub mod ring;
mod ring_usage;
mod scope;
mod statistics;

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
};

use anyhow::{Context as _, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use tracer_ebpf::{BtfOffsets, Loss, ProbeSettings, WrittenRecords};

pub use family::FamilySpec;
use family::{BtfNeed, SocketIdentity};
pub use hook::Hook;
use hook::explain;
use interceptors::Interceptors;
pub use kernel_log::KernelLog;
pub use ring::Ring;
pub use scope::CaptureScope;
pub use statistics::{ProgramTiming, StateMaps};

/// The kernel object that `build.rs` builds; empty with `EGRESS_TRACER_SKIP_BPF`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EGRESS_TRACER_BPF_OBJECT"));

/// The attached programs of one family.
pub struct Probes {
    family: &'static FamilySpec,
    ebpf: Ebpf,
    log: Option<KernelLog>,
    interceptors: Interceptors,
}

impl Probes {
    /// Loads and attaches the first family that this kernel takes.
    ///
    /// # Errors
    /// The kernel takes none; with its reason for each.
    pub fn attach_best(scope: &CaptureScope, settings: ProbeSettings) -> anyhow::Result<Self> {
        preflight::ring_buffers()?;
        let mut refused = Vec::new();
        for family in FamilySpec::ALL {
            match Self::attach_hooks(family, scope, settings) {
                Ok(probes) => return Ok(probes),
                Err(error) => {
                    log::info!("the {family} family does not work here: {error:#}");
                    refused.push(format!("{family}: {error:#}"));
                }
            }
        }
        bail!("this kernel takes no probe family; {}", refused.join("; "))
    }

    /// Loads and attaches a family.
    ///
    /// # Errors
    /// The kernel refused a hook; with its reason.
    pub fn attach(
        family: &'static FamilySpec,
        scope: &CaptureScope,
        settings: ProbeSettings,
    ) -> anyhow::Result<Self> {
        preflight::ring_buffers()?;
        Self::attach_hooks(family, scope, settings)
    }

    fn attach_hooks(
        family: &'static FamilySpec,
        scope: &CaptureScope,
        settings: ProbeSettings,
    ) -> anyhow::Result<Self> {
        (family.preflight)()?;
        let settings = scope.apply(family, settings)?;
        let mut ebpf = open(family, settings)?;
        let log = KernelLog::open(&mut ebpf)?;
        let btf = function_types(family)?;
        let cgroup = File::open(&scope.cgroup).with_context(|| {
            format!("cannot open the cgroup {}; is it a cgroup v2 directory?", scope.cgroup.display())
        })?;
        for hook in family.hooks {
            hook.load(&mut ebpf, btf.as_ref())
                .and_then(|()| hook.attach(&mut ebpf, &cgroup))
                .map_err(|error| match cgroup_owners::exclusive(&scope.cgroup, hook.point) {
                    Some(owners) => anyhow!("{}: {owners}", explain(&error)),
                    None => anyhow!("{}", explain(&error)),
                })
                .with_context(|| {
                    format!(
                        "the kernel refused the {family} hook {} (`egress-tracer check` shows what it offers)",
                        hook.point
                    )
                })?;
        }
        trim_heap();
        Ok(Self { family, ebpf, log: Some(log), interceptors: Interceptors::default() })
    }

    /// The attached family.
    pub fn family(&self) -> &'static FamilySpec {
        self.family
    }

    /// The names of the attached programs.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.family.hooks.iter().map(|hook| hook.program)
    }

    /// The reader of the ring. It can be taken once.
    pub fn take_ring(&mut self) -> anyhow::Result<Ring> {
        let records = self.ebpf.take_map("RECORDS").context("the ring was taken before")?;
        let reader = self.ebpf.take_map("READER").context("the kernel object has no map READER")?;
        Ring::new(records, reader)
    }

    /// The reader of the programs' log. It can be taken once.
    pub fn take_log(&mut self) -> anyhow::Result<KernelLog> {
        self.log.take().context("the kernel's log was taken before")
    }

    /// From now on, traces the sockets of this cgroup (v2 id), or does not.
    pub fn set_scope(&mut self, cgroup: u64, traced: bool) -> anyhow::Result<()> {
        let set = self.scopes()?.insert(cgroup, u64::from(traced), 0);
        set.context("cannot tell the kernel which pods are traced: its map of scopes is full")
    }

    /// Removes a cgroup that no longer exists from the kernel's map of scopes.
    pub fn unset_scope(&mut self, cgroup: u64) -> anyhow::Result<()> {
        match self.scopes()?.remove(&cgroup) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("cannot remove a cgroup from the kernel's map of scopes"),
        }
    }

    fn scopes(&mut self) -> anyhow::Result<HashMap<&mut MapData, u64, u64>> {
        let map = self.ebpf.map_mut("SCOPES").context("the kernel object has no map SCOPES")?;
        Ok(HashMap::try_from(map)?)
    }

    /// Brings the kernel's list of interceptors up to date with the processes that run. `now`: `CLOCK_MONOTONIC`, ns.
    pub fn refresh_interceptors(&mut self, now: u64) -> anyhow::Result<()> {
        self.interceptors.refresh(&mut self.ebpf, self.family, now)
    }

    /// The number of records that were not written since the start because a cgroup made too many, by cgroup. Where the kernel
    /// did not know the cgroup, the number is no cgroup's.
    pub fn throttled(&self) -> anyhow::Result<Vec<(u64, u64)>> {
        let map = self.ebpf.map("WRITTEN").context("the kernel object has no map WRITTEN")?;
        let written = HashMap::<_, u64, Written>::try_from(map)?;
        let counts = written.iter().map(|entry| {
            let (cgroup, Written(WrittenRecords { throttled, .. })) = entry?;
            Ok((cgroup, throttled))
        });
        let counts = counts.filter(|count| count.as_ref().map_or(true, |(_, throttled)| *throttled > 0));
        counts
            .collect::<Result<_, MapError>>()
            .context("cannot read how many records each cgroup has written")
    }

    /// The number of records that could not be written since the start, by reason.
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

/// Makes the maps, with the settings that the programs read.
fn open(family: &FamilySpec, mut settings: ProbeSettings) -> anyhow::Result<Ebpf> {
    if OBJECT.is_empty() {
        bail!(
            "this egress-tracer was built without its kernel programs (EGRESS_TRACER_SKIP_BPF was set); \
             build it again without that"
        );
    }
    let layout = match family.btf {
        BtfNeed::Offsets | BtfNeed::OffsetsAndFunctions => btf_offsets::of_this_kernel()?,
        BtfNeed::None => BtfOffsets::UNKNOWN,
    };
    settings.seed = RandomState::new().hash_one(());
    settings.cookies = u64::from(family.sockets == SocketIdentity::Cookie);
    // The verifier sees a constant, and drops the log calls above this level.
    let level = log::max_level() as u8;
    EbpfLoader::new()
        .override_global(aya_log::LEVEL, &level, true)
        .override_global("SETTINGS", &GlobalSettings(settings), true)
        .override_global("BTF_OFFSETS", &GlobalBtfOffsets(layout), true)
        .load(OBJECT)
        .context("cannot load the kernel programs' maps: this needs CAP_BPF and CAP_NET_ADMIN, or root")
}

/// Returns freed memory to the kernel. Reading the object takes some MB for a moment, which the allocator would otherwise keep
/// as long as the agent runs.
fn trim_heap() {
    // SAFETY: it releases memory that is free, and may be called at any time.
    // https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The types of the kernel's functions, where the family's programs are verified against them.
fn function_types(family: &FamilySpec) -> anyhow::Result<Option<Btf>> {
    match family.btf {
        BtfNeed::OffsetsAndFunctions => {
            let btf = Btf::from_sys_fs();
            btf.map(Some).with_context(|| format!("cannot read {}", btf_offsets::KERNEL_BTF))
        }
        BtfNeed::Offsets | BtfNeed::None => Ok(None),
    }
}

/// [`ProbeSettings`] as a type of this crate, for which it can implement aya's `Pod`.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GlobalSettings(ProbeSettings);

// SAFETY: `ProbeSettings` is `repr(C)`, integers only, without padding: 8 + 8*4 + 7*8 + 2*4 + 2*4 + 4*4 bytes.
unsafe impl aya::Pod for GlobalSettings {}
const _: () = assert!(size_of::<ProbeSettings>() == 128);

/// [`WrittenRecords`] as a type of this crate, for which it can implement aya's `Pod`.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Written(WrittenRecords);

// SAFETY: `WrittenRecords` is `repr(C)`, and all of its fields are `u64`.
unsafe impl aya::Pod for Written {}

/// [`BtfOffsets`] as a type of this crate, for which it can implement aya's `Pod`.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct GlobalBtfOffsets(BtfOffsets);

// SAFETY: `BtfOffsets` is `repr(C)`, and all of its fields are `u32`.
unsafe impl aya::Pod for GlobalBtfOffsets {}
