//! Writes records to the ring, counts the ones that did not fit, and decides whether the reader is woken.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
};
use tracer_ebpf::{
    EndRecord, HEAD_MAX, Loss, Meta, PayloadRecord, RecordKind, Role,
    reader::{ASLEEP, AWAKE},
};

use crate::{
    address::bytes_of,
    context::{Bytes, Tuple},
    maps::{Flow, LOSSES, LOST, READER, RECORDS, RING_BYTES},
};

/// How a record is handed in: whether anybody is woken is decided behind it, by `tell`.
const SILENTLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// One atomic instruction, which every kernel with eBPF has; rustc's target has no read-modify-write atomics.
#[inline(always)]
fn add_one(count: *mut u64) {
    // SAFETY: `count` points to an aligned word of the object's own data map.
    unsafe { asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1u64) };
}

/// Counts a record that could not be written.
#[inline(always)]
pub fn lost(reason: Loss) {
    add_one(LOST.as_ptr());
    if let Some(count) = LOSSES.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is into this CPU's slot of the map, which no other program touches meanwhile.
        unsafe { *count += 1 };
    }
}

/// A record was handed in. A session is settled by a reply, an end, or a request that nobody intercepted; all others can
/// wait for one of these, or for the reader's own clock.
#[inline(always)]
fn tell(settles: bool) {
    let Some(reader) = READER.get_ptr_mut(0) else { return };
    // SAFETY: an aligned word that lives in the map. Handing in a record is a full barrier, so this is read after it.
    let state = unsafe { reader.read_volatile() };
    let is_wanted = settles && state == ASLEEP;
    if state == AWAKE || (!is_wanted && RECORDS.query(BPF_RB_AVAIL_DATA.into()) <= u64::from(RING_BYTES / 4))
    {
        return;
    }
    // Only what is handed in wakes, so this is an empty record, which the reader never sees. Without room for it, whoever
    // comes next tries again.
    if let Some(nothing) = RECORDS.reserve::<u64>(0) {
        // SAFETY: as above.
        unsafe { reader.write_volatile(AWAKE) };
        nothing.discard(BPF_RB_FORCE_WAKEUP.into());
    }
}

/// The part that all records share.
#[inline(always)]
fn meta(kind: RecordKind, state: &Flow, tuple: &Tuple) -> Meta {
    Meta {
        // SAFETY: takes nothing, returns a number.
        time_ns: unsafe { bpf_ktime_get_ns() },
        flow: state.id,
        opened_ns: state.opened_ns,
        netns: state.netns,
        sidecar_netns: tuple.sidecar_netns,
        cgroup: state.cgroup(),
        tgid: state.tgid,
        tid: state.tid,
        uid: state.uid,
        // SAFETY: an aligned word that is always initialised; only its change matters, so no order is asked for.
        lost: unsafe { LOST.as_ptr().read_volatile() } as u32,
        local_addr: tuple.local_addr,
        remote_addr: tuple.remote_addr,
        local_port: tuple.local_port,
        remote_port: tuple.remote_port,
        sidecar_port: tuple.sidecar_port,
        kind: kind as u8,
        role: state.role,
        link: state.link | tuple.sidecar_flow, // only an app's flow has the second, and never the first
        comm: bytes_of(state.comm),
        flags: state.flags & tracer_ebpf::record::FLAG_LATE,
        zero: 0,
        wire_port: tuple.wire_port,
        zeros: 0,
    }
}

/// The sidecar dialled.
#[inline(always)]
pub fn dial(state: &Flow) {
    let Some(mut entry) = RECORDS.reserve::<Meta>(0) else {
        return lost(Loss::RingFull);
    };
    // SAFETY: nothing of it has been recorded.
    let remote_addr = unsafe { state.kept.remote_addr };
    entry.write(meta(RecordKind::Dial, state, &Tuple::to(bytes_of(remote_addr), state.remote_port)));
    entry.submit(SILENTLY);
    tell(false);
}

/// A leg that is being recorded sent `total` bytes, of which the first `len` (1 to `HEAD_MAX`) are copied.
#[inline(always)]
pub fn payload<B: Bytes>(bytes: &B, state: &Flow, tuple: &Tuple, offset: u32, total: u32, len: u32) {
    let Some(mut entry) = RECORDS.reserve::<PayloadRecord>(0) else {
        return lost(Loss::RingFull);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points to reserved, 8-aligned memory of exactly this type, ours until submitted; each field
    // is written through a raw pointer, so no reference to uninitialised memory is made.
    let copied = unsafe {
        ptr::addr_of_mut!((*record).meta).write(meta(RecordKind::Payload, state, tuple));
        ptr::addr_of_mut!((*record).offset).write(offset);
        ptr::addr_of_mut!((*record).total).write(total);
        ptr::addr_of_mut!((*record).zero).write(0);
        let copied = bytes.copy(ptr::addr_of_mut!((*record).data).cast::<[u8; HEAD_MAX]>(), len);
        ptr::addr_of_mut!((*record).len).write(copied);
        copied
    };
    if copied != 0 {
        let settles =
            state.role == Role::Reply as u8 || (state.role == Role::App as u8 && tuple.sidecar_port == 0);
        entry.submit(SILENTLY);
        tell(settles);
    } else {
        entry.discard(SILENTLY);
        lost(Loss::PayloadUnreadable);
    }
}

/// A flow ended.
#[inline(always)]
pub fn end(state: &Flow, tuple: &Tuple, from: u8, to: u8, received: u64) {
    ended(state, tuple, u64::from(from) | u64::from(to) << 8 | u64::from(received != 0) << 16);
}

/// The same, out of the way of the many that end without a record. `how`: the states and whether anything came, byte by byte.
#[inline(never)]
extern "C" fn ended(state: &Flow, tuple: &Tuple, how: u64) {
    let Some(mut entry) = RECORDS.reserve::<EndRecord>(0) else {
        return lost(Loss::RingFull);
    };
    let [from, to, answered, ..] = how.to_le_bytes();
    let meta = meta(RecordKind::End, state, tuple);
    entry.write(EndRecord { meta, from, to, answered, zero: 0, zeros: 0 });
    entry.submit(SILENTLY);
    tell(state.role != Role::Upstream as u8);
}
