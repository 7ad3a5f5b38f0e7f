//! Finds out what this kernel supports: loads and attaches every hook of a family with a scope that matches nothing, and
//! detaches it at once. Nothing is captured.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tracer_ebpf::{
    ProbeSettings,
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
    let settings = ProbeSettings {
        netns: [u64::from(u32::MAX); SLOTS],
        outbound_ports: [u16::MAX; SLOTS],
        inbound_ports: [u16::MAX; SLOTS],
        sidecar_uids: [NO_UID - 1; SLOTS],
        cgroup: u64::MAX,
        default_scope: DEFAULT_OUT_OF_SCOPE,
        ..ProbeSettings::DEFAULT
    };
    let mut ebpf = open(family, settings)?;
    let btf = function_types(family)?;
    let trial =
        (family.cgroups == CgroupScope::Attachment).then(|| TrialCgroup::find(cgroups)).transpose()?;
    let dir = trial.as_ref().map_or(cgroups, TrialCgroup::dir);
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

/// The cgroup that hooks are attached to for a moment. The programs match nothing in either.
enum TrialCgroup {
    /// A new one without processes, removed on drop.
    Empty(PathBuf),
    /// That of this process, where the tree is mounted read-only, as in the agent's own pod.
    Own(PathBuf),
}

impl TrialCgroup {
    fn find(cgroups: &Path) -> anyhow::Result<Self> {
        let dir = cgroups.join(format!("egress-tracer-check-{}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => Ok(Self::Empty(dir)),
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(Self::Own(own_cgroup(cgroups))),
            Err(error) => Err(error).with_context(|| format!("cannot make the cgroup {}", dir.display())),
        }
    }

    fn dir(&self) -> &Path {
        let (Self::Empty(dir) | Self::Own(dir)) = self;
        dir
    }
}

impl Drop for TrialCgroup {
    fn drop(&mut self) {
        if let Self::Empty(dir) = self
            && let Err(error) = fs::remove_dir(&dir)
        {
            log::warn!("cannot remove the cgroup {}: {error}", dir.display());
        }
    }
}

/// The directory of this process's cgroup: the line `0::PATH` of /proc/self/cgroup (cgroups(7)). The root where it is not below
/// this mount.
fn own_cgroup(cgroups: &Path) -> PathBuf {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let dir = cgroups.join(path);
    if dir.join("cgroup.procs").exists() { dir } else { cgroups.to_owned() }
}
