//! The current time, processor and task, as the kernel's helpers report them. The task's functions are for hooks that run in
//! the calling task's context, never for those that may run in a softirq, where the current task is an arbitrary one.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    generated::{
        bpf_get_current_comm, bpf_get_current_task, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns,
    },
};

/// `CLOCK_MONOTONIC` in ns.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_ns() }
}

/// The kernel's tick counter; a second has 100 to 1000 ticks. The verifier inlines this helper as a load:
/// <https://git.kernel.org/torvalds/c/5576b991e9c1a11d2cc21c4b94fc75ec27603896>
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_jiffies64() }
}

/// The number of the current processor.
#[inline(always)]
pub fn processor() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_smp_processor_id() }
}

/// The current task's `task_struct` address, which is unique among living threads. More program types may call this helper
/// than the one for ids.
#[inline(always)]
pub fn task_address() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_current_task() }
}

/// The current task's process id (upper half) and thread id (lower half).
#[inline(always)]
pub fn task_ids() -> u64 {
    bpf_get_current_pid_tgid()
}

/// The current task's user id.
#[inline(always)]
pub fn task_uid() -> u32 {
    bpf_get_current_uid_gid() as u32
}

/// The current task's name, NUL-padded.
#[inline(always)]
pub fn task_comm() -> [u64; 2] {
    let mut comm = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: `comm` has the size that is passed, and the helper writes all of it, also on failure.
    unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), size_of_val(&comm) as u32);
        comm.assume_init()
    }
}
