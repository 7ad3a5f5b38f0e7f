//! What the loader tells the programs. It lies in `.rodata`, so the verifier sees constants and drops dead branches.

use crate::branchless::is_zero63;

/// How many ports or user ids of one sort may be given.
pub const SLOTS: usize = 4;

/// Written once by the loader, before the programs are verified. Unused slots are 0 in the port lists and
/// [`NO_UID`] in the uid list.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long after an app's request the first bytes of its sidecar's new connections are of interest, in ns.
    pub watch_ns: u64,
    /// The only network namespaces to be traced, as the family of hooks numbers them; all 0: every one.
    pub netns: [u64; SLOTS],
    /// A secret of this run: with it, nobody can choose addresses that look alike to the programs.
    pub seed: u64,
    /// Id of the only cgroup (v2) to be traced, with what is below it; 0: every one. For the families whose hooks are
    /// not attached to a cgroup.
    pub cgroup: u64,
    /// Sockets are told apart by their cookies (1), or by their addresses (0).
    pub cookies: u64,
    /// What becomes of cgroups that the map of scopes does not name.
    pub unnamed: u64,
    /// Ports on which the sidecar accepts what iptables redirected from the app (istio: 15001).
    pub outbound_ports: [u16; SLOTS],
    /// Ports on which the sidecar accepts what came from outside the pod (istio: 15006).
    pub inbound_ports: [u16; SLOTS],
    /// The users that iptables exempts from redirection, that is: the sidecar (istio: 1337).
    pub sidecar_uids: [u32; SLOTS],
}

/// [`Settings::unnamed`]: the map is empty and is not asked; all cgroups are traced.
pub const NO_SCOPES: u64 = 0;
/// [`Settings::unnamed`]: cgroups that the map does not name are traced.
pub const TRACE_UNNAMED: u64 = 1;
/// [`Settings::unnamed`]: cgroups that the map does not name are not traced.
pub const LEAVE_UNNAMED: u64 = 2;

/// The empty slot of [`Settings::sidecar_uids`]; the kernel's own "no uid".
pub const NO_UID: u32 = u32::MAX;

impl Settings {
    /// What istio-init sets up, and a watch of ten seconds.
    pub const ISTIO: Self = Self {
        watch_ns: 10_000_000_000,
        netns: [0; SLOTS],
        seed: 0,
        cgroup: 0,
        cookies: 1,
        unnamed: NO_SCOPES,
        outbound_ports: [15001, 0, 0, 0],
        inbound_ports: [15006, 0, 0, 0],
        sidecar_uids: [1337, NO_UID, NO_UID, NO_UID],
    };

    /// Are there namespaces that are not traced?
    #[inline(always)]
    pub fn is_netns_scoped(&self) -> bool {
        self.netns[0] != 0
    }

    /// Are sockets told apart by their cookies?
    #[inline(always)]
    pub fn has_cookies(&self) -> bool {
        self.cookies != 0
    }

    /// Is this namespace one to be traced?
    #[inline(always)]
    pub fn is_netns_in_scope(&self, netns: u64) -> bool {
        !self.is_netns_scoped() || contains(self.netns, 0, netns) != 0
    }

    /// Does the sidecar accept on `port`?
    #[inline(always)]
    pub fn is_sidecars_port(&self, port: u16) -> bool {
        let port = port.into();
        contains(self.outbound_ports.map(u64::from), 0, port)
            | contains(self.inbound_ports.map(u64::from), 0, port)
            != 0
    }

    /// Does the sidecar accept connections from outside the pod on `port`?
    #[inline(always)]
    pub fn is_inbound(&self, port: u16) -> bool {
        contains(self.inbound_ports.map(u64::from), 0, port.into()) != 0
    }

    /// Is `uid` the sidecar's?
    #[inline(always)]
    pub fn is_sidecar(&self, uid: u32) -> bool {
        contains(self.sidecar_uids.map(u64::from), NO_UID.into(), uid.into()) != 0
    }
}

/// 1 where `wanted`, below 2^63 as all slots are, is in one of them, else 0. The first empty slot ends them, which the verifier
/// sees: what compares the others is not part of the programs that run. What does the comparing has no branches.
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
    fn empty_slots_match_nothing() {
        let settings = Settings::ISTIO;
        assert!(settings.is_sidecars_port(15001) && settings.is_inbound(15006) && settings.is_sidecar(1337));
        assert!(!settings.is_sidecars_port(0) && !settings.is_inbound(0) && !settings.is_sidecar(NO_UID));
        assert!(settings.is_netns_in_scope(7) && settings.is_netns_in_scope(0));
        let scoped = Settings { netns: [7, 0, 0, 0], ..Settings::ISTIO };
        assert!(scoped.is_netns_in_scope(7) && !scoped.is_netns_in_scope(8) && !scoped.is_netns_in_scope(0));
        assert!(settings.is_sidecars_port(15006) && !settings.is_inbound(15001) && !settings.is_sidecar(0));
    }
}
