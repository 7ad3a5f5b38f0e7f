//! Tries what this kernel takes: every hook of a family is loaded and attached, with a scope in which there is nothing,
//! and detached at once. Nothing is captured.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tracer_ebpf::{
    Settings,
    settings::{DEFAULT_OUT_OF_SCOPE, NO_UID, SLOTS},
};

use super::{Family, Hook, explain, kernel_btf, open, preflight};

/// What became of a family.
pub struct Trial {
    /// Which one.
    pub family: Family,
    /// Why none of its hooks could be tried.
    pub refused: Option<String>,
    /// Each of its hooks.
    pub hooks: Vec<Attempt>,
}

/// What became of a hook.
pub struct Attempt {
    /// Which one.
    pub hook: Hook,
    /// The verifier took it.
    pub loaded: bool,
    /// The kernel attached it.
    pub attached: bool,
    /// How many instructions the verifier looked at, where the kernel says so.
    pub verified_instructions: Option<u32>,
    /// The kernel's own words.
    pub error: Option<String>,
}

impl Trial {
    /// Tries a family. `cgroups` is where cgroup v2 is mounted.
    pub fn of(family: Family, cgroups: &Path) -> Self {
        let mut hooks = Vec::new();
        let refused = try_hooks(family, cgroups, &mut hooks).err().map(|error| format!("{error:#}"));
        Self { family, refused, hooks }
    }

    /// Every hook can be had.
    pub fn works(&self) -> bool {
        self.refused.is_none() && self.hooks.iter().all(|attempt| attempt.attached)
    }
}

fn try_hooks(family: Family, cgroups: &Path, attempts: &mut Vec<Attempt>) -> anyhow::Result<()> {
    preflight::ring_buffers()?;
    // The last numbers of each sort, which nothing has; the verifier does not know that, and looks at all of a program.
    let settings = Settings {
        netns: [u64::from(u32::MAX); SLOTS],
        outbound_ports: [u16::MAX; SLOTS],
        inbound_ports: [u16::MAX; SLOTS],
        sidecar_uids: [NO_UID - 1; SLOTS],
        cgroup: u64::MAX,
        default_scope: DEFAULT_OUT_OF_SCOPE,
        ..Settings::ISTIO
    };
    let mut ebpf = open(family, settings)?;
    let btf = kernel_btf(family)?;
    // Only cgroup hooks are attached to it.
    let empty = (family == Family::Cgroup).then(|| EmptyCgroup::make(cgroups)).transpose()?;
    let dir = empty.as_ref().map_or(cgroups, |empty| &empty.0);
    let cgroup = File::open(dir).with_context(|| format!("cannot open the cgroup {}", dir.display()))?;
    for &hook in family.hooks() {
        let loaded = hook.load(&mut ebpf, btf.as_ref());
        let (loaded, result) = (loaded.is_ok(), loaded.and_then(|()| hook.attach(&mut ebpf, &cgroup)));
        attempts.push(Attempt {
            hook,
            loaded,
            attached: result.is_ok(),
            verified_instructions: hook.verified_instructions(&mut ebpf),
            error: result.err().map(|error| explain(&error)),
        });
    }
    Ok(())
}

/// A cgroup of our own in which there is nobody.
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
