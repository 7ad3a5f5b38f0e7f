//! Finds out what this kernel supports: loads and attaches every hook of a family with a scope that matches nothing, and
//! detaches it at once. Nothing is captured.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tracer_ebpf::{
    Settings,
    settings::{DEFAULT_OUT_OF_SCOPE, NO_UID, SLOTS},
};

use super::{FamilySpec, Hook, explain, family::CgroupScope, function_types, open, preflight};

/// The result for a family.
pub struct FamilySupport {
    /// The family.
    pub family: &'static FamilySpec,
    /// Why its hooks could not be tried at all.
    pub refused: Option<String>,
    /// The result for each of its hooks.
    pub hooks: Vec<HookSupport>,
}

/// The result for a hook.
pub struct HookSupport {
    /// The hook.
    pub hook: Hook,
    /// The verifier accepted it.
    pub loaded: bool,
    /// The kernel attached it.
    pub attached: bool,
    /// The number of instructions that the verifier processed, where the kernel reports it.
    pub verified_instructions: Option<u32>,
    /// The kernel's error.
    pub error: Option<String>,
}

impl FamilySupport {
    /// Tries a family. `cgroups` is the mount point of cgroup v2.
    pub fn of(family: &'static FamilySpec, cgroups: &Path) -> Self {
        let mut hooks = Vec::new();
        let refused = try_hooks(family, cgroups, &mut hooks).err().map(|error| format!("{error:#}"));
        Self { family, refused, hooks }
    }

    /// Does every hook work?
    pub fn works(&self) -> bool {
        self.refused.is_none() && self.hooks.iter().all(|hook| hook.attached)
    }
}

fn try_hooks(family: &FamilySpec, cgroups: &Path, results: &mut Vec<HookSupport>) -> anyhow::Result<()> {
    preflight::ring_buffers()?;
    // Numbers that no namespace, socket or process has. The verifier cannot know that, and processes the whole program.
    let settings = Settings {
        netns: [u64::from(u32::MAX); SLOTS],
        outbound_ports: [u16::MAX; SLOTS],
        inbound_ports: [u16::MAX; SLOTS],
        sidecar_uids: [NO_UID - 1; SLOTS],
        cgroup: u64::MAX,
        default_scope: DEFAULT_OUT_OF_SCOPE,
        ..Settings::DEFAULT
    };
    let mut ebpf = open(family, settings)?;
    let btf = function_types(family)?;
    let empty =
        (family.cgroups == CgroupScope::Attachment).then(|| EmptyCgroup::make(cgroups)).transpose()?;
    let dir = empty.as_ref().map_or(cgroups, |empty| &empty.0);
    let cgroup = File::open(dir).with_context(|| format!("cannot open the cgroup {}", dir.display()))?;
    for &hook in family.hooks {
        let loaded = hook.load(&mut ebpf, btf.as_ref());
        let (loaded, result) = (loaded.is_ok(), loaded.and_then(|()| hook.attach(&mut ebpf, &cgroup)));
        results.push(HookSupport {
            hook,
            loaded,
            attached: result.is_ok(),
            verified_instructions: hook.verified_instructions(&mut ebpf),
            error: result.err().map(|error| explain(&error)),
        });
    }
    Ok(())
}

/// A new cgroup without processes, removed on drop.
struct EmptyCgroup(PathBuf);

impl EmptyCgroup {
    fn make(cgroups: &Path) -> anyhow::Result<Self> {
        let dir = cgroups.join(format!("egress-tracer-check-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for EmptyCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            log::warn!("cannot remove the cgroup {}: {error}", self.0.display());
        }
    }
}
