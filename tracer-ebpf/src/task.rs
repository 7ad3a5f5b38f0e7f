//! Who runs at the moment: for hooks in the caller's own context only, never for those that may run in a softirq.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_comm, bpf_get_current_task},
};

use tracer_ebpf::Role;

use crate::{
    maps::{THREADS, Thread, settings},
    opaque::opaque_zero,
};

/// For so long (ns) a thread is taken to be who it was: it may take another name or user, as it does when it begins another
/// program, but it does not do so in the midst of its work.
const HOLDS_NS: u64 = 1 << 30;

/// The current thread, at this time. Who dials or accepts does so again, and the kernel's answers to who it is take longer than to
/// find the last ones.
#[inline(always)]
pub fn current(at: u64) -> *mut Thread {
    let ids = bpf_get_current_pid_tgid();
    let key = current_thread();
    if let Some(thread) = THREADS.find(key) {
        // SAFETY: the value lives in the map, and only this thread writes it.
        if unsafe { (*thread).ids == ids && at < (*thread).until_ns } {
            return thread;
        }
    }
    ask(key, ids, at)
}

#[inline(never)]
extern "C" fn ask(key: u64, ids: u64, at: u64) -> *mut Thread {
    let uid = bpf_get_current_uid_gid() as u32;
    let role = if settings().is_sidecar(uid) { Role::Upstream } else { Role::App };
    let comm = current_comm();
    let zero = opaque_zero(); // of constants, LLVM would make a call of `memset`, which is a loop
    let until_ns = at + HOLDS_NS;
    let thread = Thread {
        ids,
        until_ns,
        comm,
        uid,
        role: role as u32,
        dialed: zero,
        dialed_id: zero,
        accepted: zero,
        accepted_socket: zero,
    };
    THREADS.put(key, &thread)
}

/// What is kept of the current thread.
#[inline(always)]
pub fn find_current() -> Option<*mut Thread> {
    THREADS.find(current_thread())
}

/// A number that no other thread has while this one lives: its structure's address, which more kinds of programs may ask
/// for than its id.
#[inline(always)]
pub fn current_thread() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_current_task() }
}

#[inline(always)]
fn current_comm() -> [u64; 2] {
    let mut comm = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: `comm` has the size told, and the helper writes all of it, also where it fails.
    unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), size_of_val(&comm) as u32);
        comm.assume_init()
    }
}
