//! Where a socket's cgroup lies, read from the kernel's own structures. Both questions are functions of their own to the
//! verifier, too: it looks at them once, whatever came before.

use crate::{
    maps::settings,
    opaque::opaque_zero,
    scope::is_in_scope,
    sock::{offset, read},
};

/// How deep a cgroup may lie for `--cgroup` to find its ancestor.
const DEPTH: u32 = 16;

/// A `struct cgroup *`, or what a socket has that belongs to none.
#[derive(Clone, Copy)]
pub struct Cgroup(pub u64);

impl Cgroup {
    /// Its v2 id; 0: none.
    #[inline(always)]
    pub fn id(self) -> u64 {
        if self.is_none() { 0 } else { read(read(self.0, offset!(kn)), offset!(kn_id)) }
    }

    /// Is it the one that `--cgroup` names, or below it?
    #[inline(always)]
    pub fn is_below_wanted(self) -> bool {
        let wanted = settings().cgroup;
        wanted == 0 || egress_lies_in(self.0, wanted) != 0
    }

    /// Does userspace want what this cgroup sends?
    #[inline(always)]
    pub fn is_in_scope(self) -> bool {
        egress_is_wanted(self.0) != 0
    }

    /// Before 5.15 the lowest bits are tags: a socket that has them belongs to no cgroup of its own.
    /// https://elixir.bootlin.com/linux/v5.10/source/include/linux/cgroup-defs.h#L775
    #[inline(always)]
    fn is_none(self) -> bool {
        self.0 & 3 != 0
    }

    /// The id of its ancestor at a level (0: the root's; its own: itself); 0 beyond that.
    #[inline(always)]
    fn ancestor(self, level: u32) -> u64 {
        let own: u32 = read(self.0, offset!(cgroup_level));
        // LLVM would make one bound of this and the loop's, of which the verifier knows nothing.
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
extern "C" fn egress_lies_in(cgroup: u64, wanted: u64) -> u64 {
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
extern "C" fn egress_is_wanted(cgroup: u64) -> u64 {
    let cgroup = Cgroup(cgroup);
    u64::from(is_in_scope(|level| if cgroup.is_none() { 0 } else { cgroup.ancestor(level as u32) }))
}
