//! The threads that dial or accept. For hooks that run in the calling task's context only.

use tracer_ebpf::{Role, verifier::opaque_zero};

use crate::{
    current::{task_address, task_comm, task_ids, task_uid},
    state::{
        globals::settings,
        maps::THREADS,
        values::{Owner, Thread},
    },
};

/// For how long (ns) a thread's name and user are taken from the map. The helpers take longer than the lookup.
const VALID_NS: u64 = 1 << 30;

/// The current thread's entry, made if needed. `at`: the time.
#[inline(always)]
pub fn current(at: u64) -> *mut Thread {
    let ids = task_ids();
    let key = task_address();
    if let Some(thread) = THREADS.find(key) {
        // SAFETY: the value lives in the map, and only this thread writes it.
        if unsafe { (*thread).owner.ids == ids && at < (*thread).until_ns } {
            return thread;
        }
    }
    insert(key, ids, at)
}

#[inline(never)]
extern "C" fn insert(key: u64, ids: u64, at: u64) -> *mut Thread {
    let uid = task_uid();
    let role = if settings().is_sidecar(uid) { Role::Upstream } else { Role::App };
    let comm = task_comm();
    let zero = opaque_zero();
    let until_ns = at + VALID_NS;
    let owner = Owner { ids, comm, uid, role: role as u32 };
    let thread =
        Thread { owner, until_ns, dialed: zero, dialed_id: zero, accepted: zero, accepted_socket: zero };
    THREADS.insert(key, &thread)
}

/// The current thread's entry, if there is one.
#[inline(always)]
pub fn find_current() -> Option<*mut Thread> {
    THREADS.find(task_address())
}
