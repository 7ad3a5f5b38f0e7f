//! Which ports and processes intercept, as observed: a port to which the address translation of a namespace sends connections
//! that an app dialed to another host, and the processes that accept there. User ids and port numbers prove nothing: platforms
//! choose them.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};

use super::globals::settings;
use crate::current::{now, task_ids, task_uid};

/// Whether a port of any namespace intercepts: one bit a port. A test that costs one load, and that packets of other namespaces
/// pass as well.
#[map]
static PORT_BITS: Array<u64> = Array::with_max_entries(1 << 10, 0);

/// When a port of a namespace was last seen to intercept (`CLOCK_MONOTONIC`, ns), by namespace and port. Userspace adds the other
/// listeners of the same processes.
#[map]
static INTERCEPTOR_PORTS: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(1 << 13, 0);

/// Processes that accepted on such a port, by process id. Userspace removes those that ended.
#[map]
static INTERCEPTORS: LruHashMap<u64, Interceptor> = LruHashMap::with_max_entries(1 << 12, 0);

/// The cgroup (v2 id) and user of sockets that such processes accepted: the only things that a packet tells of its owner.
#[map]
static INTERCEPTOR_OWNERS: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(1 << 12, 0);

/// Sockets that such processes may be about to listen on, by [`crate::sock::uapi::socket_number`]. For the cgroup family, whose
/// hook for a socket that begins to listen does not know the process.
#[map]
static LISTENERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1 << 10, 0);

/// A process that intercepts.
#[repr(C)]
#[derive(Clone, Copy)]
struct Interceptor {
    /// When it last accepted on an intercepting port (`CLOCK_MONOTONIC`, ns).
    seen_ns: u64,
    /// The namespace of that port.
    netns: u64,
}

/// For how long (ns) an observation holds. Process ids, and in some families numbers of namespaces, are used again.
const VALID_NS: u64 = 600 << 30;
/// How old (ns) an observation may be before it is written again.
const FRESH_NS: u64 = 1 << 30;

/// Whether `port` may intercept in some namespace. No false negatives.
#[inline(always)]
pub fn may_be_port(port: u16) -> bool {
    let word = PORT_BITS.get(u32::from(port) >> 6).copied().unwrap_or(0);
    (word >> (port & 63)) & 1 != 0 || settings().is_sidecars_port(port)
}

/// Whether `port` intercepts in this namespace.
#[inline(always)]
pub fn is_port(netns: u64, port: u16) -> bool {
    may_be_port(port) && (egress_is_observed(netns, port.into()) != 0 || settings().is_sidecars_port(port))
}

// The functions below whose names begin with `egress_` are global ones, which the verifier checks once and not in the state of
// each call.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_observed(netns: u64, port: u64) -> u64 {
    // SAFETY: the value is read in one load.
    let at = unsafe { INTERCEPTOR_PORTS.get([netns, port]) };
    u64::from(at.is_some_and(|at| is_newer(*at, VALID_NS)))
}

#[inline(always)]
fn is_newer(at: u64, than: u64) -> bool {
    now().wrapping_sub(at) < than
}

/// Notes that `port` of this namespace intercepts. `netns` 0: the namespace is not known, and only [`may_be_port`] learns of it.
#[inline(always)]
pub fn learn_port(netns: u64, port: u16) {
    egress_learn_port(netns, port.into());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_learn_port(netns: u64, port: u64) -> u64 {
    let Some(word) = PORT_BITS.get_ptr_mut((port as u32 & 0xffff) >> 6) else { return 0 };
    // SAFETY: an aligned word that lives in the map. A bit that another processor's write loses is set at the next dial.
    unsafe { *word |= 1 << (port & 63) };
    let key = [netns, port];
    // SAFETY: the value is read in one load.
    if netns != 0 && !unsafe { INTERCEPTOR_PORTS.get(key) }.is_some_and(|at| is_newer(*at, FRESH_NS)) {
        // It fails only where the map cannot evict, and is tried again at the next dial.
        let _ = INTERCEPTOR_PORTS.insert(key, now(), 0);
    }
    0
}

/// Notes that the current process accepted on an intercepting port of this namespace.
#[inline(never)]
pub extern "C" fn learn_current(netns: u64) {
    let process = task_ids() >> 32;
    if !is_process(process, FRESH_NS) {
        let _ = INTERCEPTORS.insert(process, Interceptor { seen_ns: now(), netns }, 0); // see `learn_port`
    }
}

/// Whether the current process intercepts. For hooks that run in the calling task's context only.
#[inline(always)]
pub fn is_current() -> bool {
    is_process(task_ids() >> 32, VALID_NS) || (settings().has_uids() && settings().is_sidecar(task_uid()))
}

#[inline(always)]
fn is_process(process: u64, seen_within: u64) -> bool {
    // SAFETY: the value is read in one load.
    unsafe { INTERCEPTORS.get(process) }.is_some_and(|found| is_newer(found.seen_ns, seen_within))
}

/// The current process prepares a socket for listening. For hooks that run in the calling task's context only.
#[inline(always)]
pub fn prepare_listener(socket: u64) {
    if is_current() {
        let _ = LISTENERS.insert(socket, 1, 0); // then userspace finds the port
    }
}

/// A socket that may have been prepared by an interceptor begins to listen: an app of its namespace may dial it itself.
#[inline(always)]
pub fn listens(netns: u64, port: u16, socket: u64) {
    // It fails unless there is such an entry.
    if LISTENERS.remove(socket).is_ok() {
        learn_port(netns, port);
    }
}

/// Notes the owner of a socket that an interceptor accepted.
#[inline(always)]
pub fn learn_owner(cgroup: u64, uid: u32) {
    egress_learn_owner(cgroup, uid.into());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_learn_owner(cgroup: u64, uid: u64) -> u64 {
    let key = [cgroup, uid];
    // SAFETY: the value is read in one load.
    if !unsafe { INTERCEPTOR_OWNERS.get(key) }.is_some_and(|at| is_newer(*at, FRESH_NS)) {
        let _ = INTERCEPTOR_OWNERS.insert(key, now(), 0); // see `learn_port`
    }
    0
}

/// Whether sockets of this cgroup and user are an interceptor's.
#[inline(always)]
pub fn is_owner(cgroup: u64, uid: u32) -> bool {
    egress_is_owner(cgroup, uid.into()) != 0 || settings().is_sidecar(uid)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_is_owner(cgroup: u64, uid: u64) -> u64 {
    // SAFETY: the value is read in one load.
    u64::from(unsafe { INTERCEPTOR_OWNERS.get([cgroup, uid]) }.is_some_and(|at| is_newer(*at, VALID_NS)))
}
