//! The capabilities that this program uses, and how it gives them up once it does not need them any more.

use anyhow::Context as _;
use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

use crate::probes::Probes;

/// A capability that this program uses.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// The name, with `CAP_`.
    pub name: &'static str,
    /// What it is needed for.
    pub what_for: &'static str,
    set: CapabilitySet,
}

/// All capabilities that are used. `docs/security.md` has the same table.
pub const ALL: [Capability; 5] = [
    capability("CAP_BPF", "loads programs and makes maps", CapabilitySet::BPF),
    capability(
        "CAP_PERFMON",
        "lets programs read the kernel's memory: needed by fentry and kprobe, and for process names in the cgroup family",
        CapabilitySet::PERFMON,
    ),
    capability("CAP_NET_ADMIN", "attaches cgroup hooks", CapabilitySet::NET_ADMIN),
    capability(
        "CAP_SYS_ADMIN",
        "enters pods' network namespaces to ask their sidecars (not with --no-explain); --metrics-programs; --netns with \
         cgroup hooks; stands for CAP_BPF and CAP_PERFMON",
        CapabilitySet::SYS_ADMIN,
    ),
    capability(
        "CAP_SYS_PTRACE",
        "finds the network namespace of another user's process to ask its sidecar (not with --no-explain)",
        CapabilitySet::SYS_PTRACE,
    ),
];

const fn capability(name: &'static str, what_for: &'static str, set: CapabilitySet) -> Capability {
    Capability { name, what_for, set }
}

impl Capability {
    /// Does this process have it? `false` if that cannot be read.
    pub fn is_held(&self) -> bool {
        capabilities(None).is_ok_and(|sets| sets.effective.contains(self.set))
    }
}

/// What this process lacks to load and attach probes, as a sentence with what to do. `None`: it lacks nothing.
///
/// `CAP_SYS_ADMIN` stands for all three capabilities: `bpf_capable`, `perfmon_capable` and `bpf_net_capable` in
/// <https://elixir.bootlin.com/linux/v6.12/source/include/linux/capability.h#L199> and `kernel/bpf/syscall.c`.
pub fn missing_for_probes() -> Option<String> {
    let [bpf, perfmon, net_admin, sys_admin, _] = ALL.map(|capability| capability.is_held());
    // With one of the other two, one family may work.
    if sys_admin || (bpf && (perfmon || net_admin)) {
        return None;
    }
    let lacking = ALL.iter().zip([bpf, perfmon, net_admin]).filter(|(_, held)| !held);
    let names: Vec<&str> = lacking.map(|(capability, _)| capability.name).collect();
    let names = names.join(", ");
    Some(if rustix::process::geteuid().is_root() {
        format!(
            "loading probes needs {names}, which this process has not, although it is root: give them to the container \
             (securityContext.capabilities.add)"
        )
    } else {
        format!("loading probes needs root (sudo), or {names}")
    })
}

/// Keeps the memory of this process, which holds the first bytes of apps' requests, from other processes of its user: it
/// writes no core file, and without `CAP_SYS_PTRACE` none can trace it or read its memory.
pub fn hide_memory() -> anyhow::Result<()> {
    const WHAT: &str = "cannot keep this process's memory to itself";
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context(WHAT)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(WHAT)
}

/// Gives up, for good, what an agent with attached probes does not need, and returns the names of what it keeps. `explains`:
/// it will ask sidecars for their configuration.
///
/// Capabilities belong to a thread and are inherited by the threads that it starts. Call this while there is one thread.
pub fn give_up(probes: &Probes, explains: bool) -> anyhow::Result<Vec<&'static str>> {
    const WHAT: &str = "cannot give up privileges";
    set_no_new_privs(true).context(WHAT)?;
    let held = capabilities(None).context(WHAT)?.permitted;
    empty_inheritable_sets().context(WHAT)?;
    let asking = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
    let mut kept = held & if explains { asking } else { CapabilitySet::empty() };
    keep(held, kept).context(WHAT)?;
    // Before 5.19, kernel.unprivileged_bpf_disabled also forbids bpf(2) on maps that are open already:
    // https://git.kernel.org/torvalds/c/c8644cd0efe7
    if probes.losses().is_err() && held.contains(CapabilitySet::BPF) {
        kept |= CapabilitySet::BPF;
    }
    keep(kept, kept).context(WHAT)?;
    let left = capabilities(None).context(WHAT)?.permitted;
    Ok(ALL
        .iter()
        .filter(|capability| left.contains(capability.set))
        .map(|capability| capability.name)
        .collect())
}

/// Empties the sets from which a program that this process executes, or its file, could gain a capability. The bounding set
/// needs `CAP_SETPCAP`; without it that set is what the container's runtime left, and `no_new_privs` holds anyway.
fn empty_inheritable_sets() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => match remove_capability_from_bounding_set(capability) {
                Err(Errno::PERM) => return Ok(()),
                removed => removed?,
            },
            Ok(false) => {}
            Err(Errno::INVAL) => break, // beyond the kernel's last capability
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn keep(permitted: CapabilitySet, effective: CapabilitySet) -> rustix::io::Result<()> {
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
}
