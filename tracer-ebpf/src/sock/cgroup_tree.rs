//! A socket's cgroup and its ancestors, read from kernel structures. Each test is a global function, which the verifier
//! checks once and not in the state of each call.

use tracer_ebpf::verifier::opaque_zero;

use super::read::read;
use crate::state::{
    globals::{offset, settings},
    scope::is_in_scope,
};

/// The depth to which the ancestors of a cgroup are compared with `--cgroup`.
const DEPTH: u32 = 16;

/// `sock.sk_cgrp_data.cgroup`: a `struct cgroup *`, or tagged bits of a socket without a cgroup of its own.
#[derive(Clone, Copy)]
pub struct Cgroup(pub u64);

impl Cgroup {
    /// Its v2 id; 0 if there is none.
    #[inline(always)]
    pub fn id(self) -> u64 {
        if self.is_none() { 0 } else { read(read(self.0, offset!(kn)), offset!(kn_id)) }
    }

    /// Whether it is the cgroup of `--cgroup`, or a descendant.
    #[inline(always)]
    pub fn is_below_wanted(self) -> bool {
        let wanted = settings().cgroup;
        wanted == 0 || egress_is_descendant(self.0, wanted) != 0
    }

    /// Whether this cgroup is traced.
    #[inline(always)]
    pub fn is_in_scope(self) -> bool {
        egress_is_in_scope(self.0) != 0
    }

    /// Before 5.15, a socket whose lowest bits are tags has no cgroup of its own:
    /// <https://elixir.bootlin.com/linux/v5.10/source/include/linux/cgroup-defs.h#L775>
    #[inline(always)]
    fn is_none(self) -> bool {
        self.0 & 3 != 0
    }

    /// The id of its ancestor at a level: 0 is the root, its own level is the cgroup itself, and beyond that the id is 0.
    #[inline(always)]
    fn ancestor(self, level: u32) -> u64 {
        let own: u32 = read(self.0, offset!(cgroup_level));
        // Opaque, or LLVM merges this bound with the loop's into one that the verifier does not know.
        if u64::from(level) > u64::from(own) + opaque_zero() {
            0
        } else if offset!(ancestors_are_ids) == 1 {
            read(self.0, offset!(ancestors) + 8 * level)
        } else {
            let ancestor = read::<u64>(self.0, offset!(ancestors) + 8 * level);
            read(read(ancestor, offset!(kn)), offset!(kn_id))
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_descendant(cgroup: u64, wanted: u64) -> u64 {
    let cgroup = Cgroup(cgroup);
    if cgroup.is_none() {
        return 0;
    }
    let mut level = 0;
    while level < DEPTH {
        match cgroup.ancestor(level) {
            0 => return 0,
            id if id == wanted => return 1,
            _ => level += 1,
        }
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_in_scope(cgroup: u64) -> u64 {
    let cgroup = Cgroup(cgroup);
    u64::from(is_in_scope(|level| if cgroup.is_none() { 0 } else { cgroup.ancestor(level as u32) }))
}
