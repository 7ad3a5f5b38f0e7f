//! Whether a cgroup is traced, where userspace selects pods: decided when a task dials, and before anything is copied of a flow
//! whose start was not seen.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use tracer_ebpf::settings::{DEFAULT_OUT_OF_SCOPE, NO_SCOPES};

use super::{globals::settings, maps::SCOPES};

/// The depth to which ancestors are looked up; a container in a container of a node lies at depth twelve.
const DEPTH: i32 = 16;

/// Whether a cgroup is traced. `ancestor` returns the id of its ancestor at a level: 1 is below the root, its own level is the
/// cgroup itself, and beyond that the id is 0.
#[inline(always)]
pub fn is_in_scope(ancestor: impl Fn(i32) -> u64) -> bool {
    let default = settings().default_scope;
    if default == NO_SCOPES {
        return true;
    }
    let mut level = 1;
    while level < DEPTH {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        // SAFETY: the value is read in one load.
        if let Some(traced) = unsafe { SCOPES.get(id) } {
            return *traced != 0;
        }
        level += 1;
    }
    default != DEFAULT_OUT_OF_SCOPE
}

/// Whether the current task's cgroup is traced: for hooks that run in the calling task's context.
#[inline(always)]
pub fn is_current_in_scope() -> bool {
    // SAFETY: takes a number, returns a number.
    is_in_scope(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
}
