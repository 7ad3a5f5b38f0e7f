//! Which cgroups are traced, where userspace chooses by pod: asked when a task dials, and of a flow whose beginning was
//! not seen before anything of it is copied. It never changes the map.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use tracer_ebpf::settings::{LEAVE_UNNAMED, NO_SCOPES};

use crate::maps::{SCOPES, settings};

/// How deep a container may lie; a node within a container within a node is at twelve.
const DEPTH: i32 = 16;

/// Is the cgroup to be traced whose ancestor at a level (1: below the root; its own: itself; 0 beyond that) `ancestor`
/// gives?
#[inline(always)]
pub fn is_in_scope(ancestor: impl Fn(i32) -> u64) -> bool {
    let unnamed = settings().unnamed;
    if unnamed == NO_SCOPES {
        return true;
    }
    let mut level = 1;
    while level < DEPTH {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        // SAFETY: the value is only read, in one load.
        if let Some(traced) = unsafe { SCOPES.get(id) } {
            return *traced != 0;
        }
        level += 1;
    }
    unnamed != LEAVE_UNNAMED
}

/// The current task's cgroup: for hooks in the caller's own context only.
#[inline(always)]
pub fn is_current_in_scope() -> bool {
    // SAFETY: takes a number, returns a number.
    is_in_scope(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}
