//! How many records one cgroup may write: a pod's flood neither fills the ring for the others nor costs them their evidence.

use core::{ptr, sync::atomic::AtomicU64};

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use tracer_ebpf::{Loss, WrittenRecords};

use super::{globals::settings, values::Flow};
use crate::{current::now, ring};

/// Cgroups that have written records lately, by their ids; network namespaces where the cgroup is not known.
#[map]
static WRITTEN: LruHashMap<u64, WrittenRecords> = LruHashMap::with_max_entries(1 << 12, 0);

/// How many records of a network namespace were not written.
#[map]
static THROTTLED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1 << 12, 0);

/// The sum of [`THROTTLED`]. While it is 0, which it is on most nodes, the map is not consulted.
#[unsafe(no_mangle)]
static THROTTLED_IN_ALL: AtomicU64 = AtomicU64::new(0);

/// A time span of about 67 ms: so many bits of a time in ns are its place in it.
const WINDOW_BITS: u32 = 26;

/// Whether the flow's cgroup may write another record now: how many records of the flow's network namespace were not written so
/// far, modulo 2^32. `None`: it may not, which is counted.
#[inline(always)]
pub fn take_record(flow: &Flow) -> Option<u32> {
    let cgroup = flow.cgroup();
    // No cgroup has the number of a namespace with this bit.
    let payer = if cgroup == 0 { flow.netns | 1 << 63 } else { cgroup };
    let throttled = egress_take_record(payer, flow.netns);
    (throttled != NO_RECORD).then_some(throttled as u32)
}

/// What [`egress_take_record`] returns where no record may be written. No count has this value, as they have 32 bits.
const NO_RECORD: u64 = u64::MAX;

/// Values of new entries. The programs that write records have little room on the stack, so these are not there.
static NONE_WRITTEN: WrittenRecords = WrittenRecords { window: 0, records: 0, throttled: 0 };
static NONE_THROTTLED: u64 = 0;

/// A function that the verifier checks once, not in each program that writes records.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_take_record(payer: u64, netns: u64) -> u64 {
    let window = now() >> WINDOW_BITS;
    // Without an entry there is no limit; the map evicts, so there is room unless processors compete for it.
    let Some(written) = entry(&WRITTEN, &payer, &NONE_WRITTEN) else {
        return throttled(netns);
    };
    // SAFETY: aligned words that live in the map. Processors that begin a window at once may each count from 0, so that a
    // few records more are written.
    let records = unsafe {
        if (*written).window != window {
            (*written).window = window;
            (*written).records = 0;
        }
        ring::add_one(ptr::addr_of_mut!((*written).records));
        (*written).records
    };
    if records <= settings().records_per_window {
        return throttled(netns);
    }
    // SAFETY: see above.
    ring::add_one(unsafe { ptr::addr_of_mut!((*written).throttled) });
    if let Some(count) = entry(&THROTTLED, &netns, &NONE_THROTTLED) {
        ring::add_one(count);
    }
    ring::add_one(THROTTLED_IN_ALL.as_ptr());
    ring::count(Loss::Throttled);
    NO_RECORD
}

/// The entry of a key, a new one if it has none.
#[inline(always)]
fn entry<V>(map: &LruHashMap<u64, V>, key: &u64, new: &V) -> Option<*mut V> {
    if map.get_ptr_mut(key).is_none() {
        // Another processor may be first; then its entry is there.
        let _ = map.insert(key, new, BPF_NOEXIST.into());
    }
    map.get_ptr_mut(key)
}

/// How many records of a network namespace were not written, modulo 2^32: only changes matter.
#[inline(always)]
fn throttled(netns: u64) -> u64 {
    // SAFETY: an aligned word that is always initialized. What is added there was added to the map before.
    if unsafe { THROTTLED_IN_ALL.as_ptr().read_volatile() } == 0 {
        return 0;
    }
    // SAFETY: the pointer is to a word that lives in the map.
    THROTTLED.get_ptr(netns).map_or(0, |count| unsafe { count.read_volatile() } & 0xffff_ffff)
}
