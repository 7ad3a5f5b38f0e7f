//! The tasks that dial, accept or send. For hooks that run in the calling task's context only.
//!
//! An app's task is read anew each time: process and thread id stay the same over `execve(2)`, which changes the name and may
//! change the user. A sidecar's threads are long-lived and many of their calls are for other traffic, so their names are cached.

use tracer_ebpf::verifier::opaque_zero;

use crate::{
    current::{task_address, task_comm, task_ids, task_uid},
    state::{
        maps::THREADS,
        values::{Flow, TaskRecord, Thread},
    },
};

/// For how long (ns) a sidecar's thread keeps its cached name and user. The helpers take longer than the lookup.
const VALID_NS: u64 = 1 << 30;

/// The current task, as the kernel's helpers report it.
#[inline(always)]
pub fn current_owner() -> TaskRecord {
    TaskRecord { ids: task_ids(), comm: task_comm(), uid: task_uid(), zero: 0 }
}

/// Makes the current task, which sends the request of an app's flow, the flow's owner: the socket may have come from another
/// process, or from another program before `execve(2)`. A worker of io_uring sends for a task that it does not name.
#[inline(always)]
pub fn set_sender(flow: &mut Flow) {
    let sender = current_owner();
    let name = sender.comm[0].to_le();
    // `iou-wrk-PID` and `iou-sqp-PID`; before 5.12 `io_wqe_worker-N` and `io_uring-sq`:
    // https://elixir.bootlin.com/linux/v6.12/source/io_uring/io-wq.c#L640
    let is_worker = name & 0xffff_ffff == u64::from_le_bytes(*b"iou-\0\0\0\0")
        || name & 0xff_ffff == u64::from_le_bytes(*b"io_\0\0\0\0\0");
    if !is_worker {
        flow.set_owner(&sender);
    }
}

/// The entry of the current thread, a sidecar's, made if needed. `at`: the time.
#[inline(always)]
pub fn current(at: u64) -> Option<*mut Thread> {
    let ids = task_ids();
    let key = task_address();
    if let Some(thread) = THREADS.find(key) {
        // SAFETY: the value lives in the map, and only this thread writes it.
        if unsafe { (*thread).owner.ids == ids && at < (*thread).until_ns } {
            return Some(thread);
        }
    }
    insert(key, ids, at)
}

#[inline(always)]
fn insert(key: u64, ids: u64, at: u64) -> Option<*mut Thread> {
    let owner = TaskRecord { ids, ..current_owner() };
    let zero = opaque_zero();
    let until_ns = at + VALID_NS;
    let thread =
        Thread { owner, until_ns, dialed: zero, dialed_id: zero, accepted: zero, accepted_socket: zero };
    THREADS.insert(key, &thread)
}

/// The current thread's entry, if there is one.
#[inline(always)]
pub fn find_current() -> Option<*mut Thread> {
    THREADS.find(task_address())
}
