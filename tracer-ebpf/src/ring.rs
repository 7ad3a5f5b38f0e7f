//! Writes records to the ring, counts the lost ones, and decides whether to wake the reader.

use core::{arch::asm, ptr};

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use tracer_ebpf::{
    EndRecord, HEAD_MAX, Loss, Meta, PayloadRecord, RecordKind, Role,
    reader::{ASLEEP, AWAKE},
};

use crate::{
    context::{Bytes, Tuple},
    current::now,
    endpoint::bytes_of,
    state::{
        budget,
        maps::{LOSSES, LOST, READER, RECORDS, RING_BYTES},
        values::{FLOW_SET_UP, Flow, record_flags},
    },
};

/// Records are submitted without a wake-up; `wake` decides on that afterwards.
const SILENTLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// Adds 1 in one atomic instruction, which every kernel with eBPF has; rustc's target has no read-modify-write atomics.
#[inline(always)]
pub fn add_one(count: *mut u64) {
    // SAFETY: `count` points to an aligned word of one of the object's maps.
    unsafe { asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1u64) };
}

/// Counts a record that could not be written. Whose it was is not known, so it may be any session's.
#[inline(always)]
pub fn lost(reason: Loss) {
    add_one(LOST.as_ptr());
    count(reason);
}

/// Counts a record that was not written.
#[inline(always)]
pub fn count(reason: Loss) {
    if let Some(count) = LOSSES.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's slot of the map. A program that interrupts this one may lose a count.
        unsafe { *count += 1 };
    }
}

/// Wakes the reader, if needed, after a record was submitted. `settles`: the record is a reply, an end, or a request that no
/// sidecar intercepted, so a report may depend on it. Other records wait for one of these, or for the reader's timer.
#[inline(always)]
fn wake(settles: bool) {
    let Some(reader) = READER.get_ptr_mut(0) else { return };
    // SAFETY: an aligned word that lives in the map. Submitting a record is a full barrier, so this is read after it.
    let state = unsafe { reader.read_volatile() };
    let is_wanted = settles && state == ASLEEP;
    if state == AWAKE || (!is_wanted && RECORDS.query(BPF_RB_AVAIL_DATA.into()) <= u64::from(RING_BYTES / 4))
    {
        return;
    }
    // Only submitting or discarding a record wakes the reader, so this discards an empty one, which the reader never sees. If
    // there is no room for it, the next record's program tries again.
    if let Some(empty) = RECORDS.reserve::<u64>(0) {
        // SAFETY: an aligned word that lives in the map.
        unsafe { reader.write_volatile(AWAKE) };
        empty.discard(BPF_RB_FORCE_WAKEUP.into());
    }
}

/// The part that all records begin with.
#[inline(always)]
fn meta(kind: RecordKind, state: &Flow, tuple: &Tuple, throttled: u32) -> Meta {
    Meta {
        time_ns: now(),
        flow: state.id,
        opened_ns: state.opened_ns,
        netns: state.netns,
        sidecar_netns: tuple.sidecar_netns,
        cgroup: state.cgroup(),
        tgid: state.tgid,
        tid: state.tid,
        uid: state.uid,
        // SAFETY: an aligned word that is always initialized. Only its changes matter, so no ordering is needed.
        lost: unsafe { LOST.as_ptr().read_volatile() } as u32,
        local_addr: tuple.local_addr,
        remote_addr: tuple.remote_addr,
        local_port: tuple.local_port,
        remote_port: tuple.remote_port,
        sidecar_port: tuple.sidecar_port,
        kind: kind as u8,
        role: state.role,
        link: state.link | tuple.sidecar_flow, // an app's flow has only the second, others only the first
        comm: bytes_of(state.comm),
        flags: record_flags(state.flags),
        zero: 0,
        wire_port: tuple.wire_port,
        throttled,
    }
}

/// Writes the record of a sidecar's dial. No payload of the flow may have been recorded.
#[inline(always)]
pub fn dial(state: &Flow) {
    let Some(throttled) = budget::take_record(state) else { return };
    let Some(mut entry) = RECORDS.reserve::<Meta>(0) else {
        return lost(Loss::RingFull);
    };
    // SAFETY: no payload of it was recorded, so the union holds the dialed address.
    let remote_addr = unsafe { state.kept.remote_addr };
    let tuple = Tuple::to(bytes_of(remote_addr), state.remote_port);
    entry.write(meta(RecordKind::Dial, state, &tuple, throttled));
    entry.submit(SILENTLY);
    wake(false);
}

/// Writes the record of a payload of `total` bytes, of which the first `len` (1 to `HEAD_MAX`) are copied. `offset`: its
/// distance from the flow's first recorded byte.
#[inline(always)]
pub fn payload<B: Bytes>(bytes: &B, state: &Flow, tuple: &Tuple, offset: u32, total: u32, len: u32) {
    let Some(throttled) = budget::take_record(state) else { return };
    let Some(mut entry) = RECORDS.reserve::<PayloadRecord>(0) else {
        return lost(Loss::RingFull);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points to reserved, 8-aligned memory of this type, which this program owns until it submits it. Each
    // field is written through a raw pointer, so there is no reference to uninitialized memory.
    let copied = unsafe {
        ptr::addr_of_mut!((*record).meta).write(meta(RecordKind::Payload, state, tuple, throttled));
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
        wake(settles);
    } else {
        entry.discard(SILENTLY);
        lost(Loss::PayloadUnreadable);
    }
}

/// Writes the record of a flow that left the TCP state `from` for `to`, after it had received so many bytes.
#[inline(always)]
pub fn end(state: &Flow, tuple: &Tuple, from: u8, to: u8, received: u64) {
    // Not in `write_end`, as the kernel adds up the frames of functions that call each other.
    let Some(throttled) = budget::take_record(state) else { return };
    let how = u64::from(from) | u64::from(to) << 8 | u64::from(received != 0) << 16;
    let how = how | u64::from(state.flags & FLOW_SET_UP) / u64::from(FLOW_SET_UP) << 24;
    write_end(state, tuple, how, throttled.into());
}

/// Writes the record of an end, as a function of its own: most flows end without a record. `how`: the two states, whether bytes
/// were received, and whether the flow has [`FLOW_SET_UP`], one byte each.
#[inline(never)]
extern "C" fn write_end(state: &Flow, tuple: &Tuple, how: u64, throttled: u64) {
    let Some(mut entry) = RECORDS.reserve::<EndRecord>(0) else {
        return lost(Loss::RingFull);
    };
    let [from, to, answered, set_up, ..] = how.to_le_bytes();
    let meta = meta(RecordKind::End, state, tuple, throttled as u32);
    entry.write(EndRecord { meta, from, to, answered, set_up, zeros: 0 });
    entry.submit(SILENTLY);
    wake(state.role != Role::Upstream as u8);
}
