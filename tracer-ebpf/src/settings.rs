//! The settings that the loader writes for the programs, into `.rodata`: the verifier sees constants and drops dead branches.

use crate::verifier::is_zero63;

/// Length of each list of ports, user ids or namespaces.
pub const SLOTS: usize = 4;

/// Written once by the loader, before the programs are verified. Unused slots are 0 in the port lists and
/// [`NO_UID`] in the uid list.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// For how long after an app's request the dials and first bytes of its sidecar are recorded, in ns.
    pub watch_ns: u64,
    /// The network namespaces to trace, as the hook family identifies them (cookie or inode number); all 0: every namespace.
    pub netns: [u64; SLOTS],
    /// Random per run, so that an app cannot choose addresses whose hashes collide.
    pub seed: u64,
    /// Id of the cgroup (v2) to trace with its descendants; 0: every cgroup. Only for the fentry and kprobe families, whose
    /// hooks are not attached to a cgroup.
    pub cgroup: u64,
    /// 1: sockets are identified by their cookies. 0: by their addresses.
    pub cookies: u64,
    /// How the names of threads begin that handle a connection with all that they dial for it, NUL-padded, as a number in the
    /// byte order of the machine; 0: no threads do.
    pub worker_name: u64,
    /// The node's own network namespace; 0 if that is not known.
    pub host_netns: u64,
    /// What holds for cgroups that the map `SCOPES` does not list: [`NO_SCOPES`], [`DEFAULT_IN_SCOPE`] or
    /// [`DEFAULT_OUT_OF_SCOPE`].
    pub default_scope: u64,
    /// How many records the processes of one cgroup may make in about 67 ms.
    pub records_per_window: u64,
    /// Hints: ports on which interceptors of every namespace accept an app's redirected connections (Istio: 15001).
    pub outbound_ports: [u16; SLOTS],
    /// Hints: ports on which interceptors of every namespace accept connections from outside the pod (Istio: 15006).
    pub inbound_ports: [u16; SLOTS],
    /// Hints: users all of whose processes intercept (Istio's sidecar: 1337).
    pub sidecar_uids: [u32; SLOTS],
}

/// [`ProbeSettings::default_scope`]: all cgroups are traced, and the map is not consulted.
pub const NO_SCOPES: u64 = 0;
/// [`ProbeSettings::default_scope`]: cgroups that the map does not list are traced.
pub const DEFAULT_IN_SCOPE: u64 = 1;
/// [`ProbeSettings::default_scope`]: cgroups that the map does not list are not traced.
pub const DEFAULT_OUT_OF_SCOPE: u64 = 2;

/// An unused slot of [`ProbeSettings::sidecar_uids`]; the kernel's `INVALID_UID`.
pub const NO_UID: u32 = u32::MAX;

impl ProbeSettings {
    /// No hints: interceptors are observed. Ten seconds of [`ProbeSettings::watch_ns`].
    pub const DEFAULT: Self = Self {
        watch_ns: 10_000_000_000,
        netns: [0; SLOTS],
        seed: 0,
        cgroup: 0,
        cookies: 1,
        worker_name: 0,
        host_netns: 0,
        default_scope: NO_SCOPES,
        records_per_window: Self::window(Self::RECORD_RATE),
        outbound_ports: [0; SLOTS],
        inbound_ports: [0; SLOTS],
        sidecar_uids: [NO_UID; SLOTS],
    };

    /// How many records a second the processes of one cgroup may make, unless the user says otherwise. A CONNECT session makes
    /// about two in its app's cgroup, and six in the sidecar's.
    pub const RECORD_RATE: u64 = 30_000;

    /// [`Self::records_per_window`] for a rate of records a second.
    pub const fn window(rate: u64) -> u64 {
        // A window is 2^26 ns.
        let records = (rate << 26) / 1_000_000_000;
        if records == 0 { 1 } else { records }
    }

    /// Whether only some network namespaces are traced.
    #[inline(always)]
    pub fn is_netns_scoped(&self) -> bool {
        self.netns[0] != 0
    }

    /// Whether sockets are identified by their cookies.
    #[inline(always)]
    pub fn has_cookies(&self) -> bool {
        self.cookies != 0
    }

    /// Whether this network namespace is traced.
    #[inline(always)]
    pub fn is_netns_in_scope(&self, netns: u64) -> bool {
        !self.is_netns_scoped() || contains(self.netns, 0, netns) != 0
    }

    /// Whether interceptors are said to accept on `port`.
    #[inline(always)]
    pub fn is_sidecars_port(&self, port: u16) -> bool {
        let port = port.into();
        contains(self.outbound_ports.map(u64::from), 0, port)
            | contains(self.inbound_ports.map(u64::from), 0, port)
            != 0
    }

    /// Whether some user is said to run interceptors.
    #[inline(always)]
    pub fn has_uids(&self) -> bool {
        self.sidecar_uids[0] != NO_UID
    }

    /// Whether processes of `uid` are said to intercept.
    #[inline(always)]
    pub fn is_sidecar(&self, uid: u32) -> bool {
        contains(self.sidecar_uids.map(u64::from), NO_UID.into(), uid.into()) != 0
    }
}

/// 1 if one of `slots` holds `wanted`, else 0. All numbers must be below 2^63. The list ends at the first `empty` slot, which
/// is a constant to the verifier, so it drops the comparisons behind it; the others are free of branches.
#[inline(always)]
fn contains(slots: [u64; SLOTS], empty: u64, wanted: u64) -> u64 {
    let mut found = 0;
    let mut i = 0;
    while i < SLOTS && slots[i] != empty {
        found |= is_zero63(slots[i] ^ wanted);
        i += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_slots_match_no_port_uid_or_namespace() {
        let none = ProbeSettings::DEFAULT;
        assert!(!none.is_sidecars_port(0) && !none.is_sidecars_port(15001) && !none.has_uids());
        assert!(!none.is_sidecar(NO_UID) && !none.is_sidecar(1337));
        let hinted = ProbeSettings {
            outbound_ports: [15001, 0, 0, 0],
            inbound_ports: [15006, 0, 0, 0],
            sidecar_uids: [1337, NO_UID, NO_UID, NO_UID],
            ..none
        };
        assert!(hinted.is_sidecars_port(15001) && hinted.is_sidecars_port(15006) && hinted.is_sidecar(1337));
        assert!(!hinted.is_sidecars_port(0) && !hinted.is_sidecar(NO_UID) && !hinted.is_sidecar(0));
        assert!(hinted.has_uids() && hinted.is_netns_in_scope(7) && hinted.is_netns_in_scope(0));
        let scoped = ProbeSettings { netns: [7, 0, 0, 0], ..none };
        assert!(scoped.is_netns_in_scope(7) && !scoped.is_netns_in_scope(8) && !scoped.is_netns_in_scope(0));
    }
}
