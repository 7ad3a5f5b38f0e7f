//! Who runs at the moment: for hooks in the caller's own context only, never for those that may run in a softirq.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{bpf_get_current_comm, bpf_get_current_task},
};

use crate::context::Owner;

/// A number that no other thread has while this one lives: its structure's address, which more kinds of programs may ask
/// for than its id.
#[inline(always)]
pub fn current_thread() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_current_task() }
}

/// The current task.
#[inline(always)]
pub fn current_task() -> Owner {
    let ids = bpf_get_current_pid_tgid();
    Owner {
        tgid: (ids >> 32) as u32,
        tid: ids as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: current_comm(),
    }
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
