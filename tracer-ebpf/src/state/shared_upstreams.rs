//! What interceptors send on connections that may carry several sessions: TLS, HTTP/2, and those that were open before the programs
//! were attached. An answer that came through such a connection is not the interceptor's own, and no dial shows it. A request
//! cannot have come through it unless bytes left on it meanwhile, so it is enough to follow what is sent.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};

use tracer_ebpf::verifier::is_zero;

use super::{
    globals::settings,
    maps::PENDING_PROXIES,
    values::{FLOW_BESIDE_SHARED, FLOW_SHARED, Flow},
};
use crate::{current::now, endpoint::endpoint_hash};

/// Whether such a connection has this local port in some namespace: one bit a port. Nearly all packets are behind this test. For
/// connections that were open before, userspace sets it.
#[map]
static SHARED_PORTS: Array<u64> = Array::with_max_entries(1 << 10, 0);

/// The latest sends, by the hash of a pod and a thread ([`Scope`]).
#[map]
static SHARED_SENDS: LruHashMap<u64, Sends> = LruHashMap::with_max_entries(1 << 12, 0);

/// The latest send, and the latest on another connection than that one. Times are `CLOCK_MONOTONIC`, ns.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sends {
    flow: u64,
    at: u64,
    others_at: u64,
}

const NO_ADDRESS: [u8; 16] = [0; 16];

/// Whether the local port is one of a shared connection in some namespace. No false negatives.
#[inline(always)]
pub fn may_be_port(port: u16) -> bool {
    let word = SHARED_PORTS.get(u32::from(port) >> 6).copied().unwrap_or(0);
    (word >> (port & 63)) & 1 != 0
}

/// The flow, an upstream, may carry several sessions.
#[inline(always)]
pub fn mark(flow: &mut Flow, local_port: u16) {
    flow.flags |= FLOW_SHARED;
    egress_mark_shared(local_port.into());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_mark_shared(local_port: u64) -> u64 {
    if let Some(word) = SHARED_PORTS.get_ptr_mut((local_port as u32 & 0xffff) >> 6) {
        // SAFETY: an aligned word that lives in the map. A bit that another processor's write loses hides what is sent on this
        // connection behind its first 64 KiB.
        unsafe { *word |= 1 << (local_port & 63) };
    }
    0
}

/// The flow, an upstream, sends bytes.
#[inline(always)]
pub fn sent(flow: &Flow) {
    if flow.flags & FLOW_SHARED != 0 {
        egress_shared_sent_in(flow.netns, thread(flow), flow.id);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_shared_sent_in(netns: u64, thread: u64, flow: u64) -> u64 {
    if PENDING_PROXIES.has_namespace(netns, now) {
        egress_shared_sent(endpoint_hash(netns, NO_ADDRESS, 0) ^ thread, flow);
    }
    0
}

/// A flow of an interceptor of which only its namespace is known sends bytes.
#[inline(always)]
pub fn sent_in(netns: u64, flow: u64) {
    egress_shared_sent_in(netns, 0, flow);
}

/// A flow of which only its own address is known, the pod's, sends bytes.
#[inline(always)]
pub fn sent_from(local_addr: [u8; 16], flow: u64) {
    egress_shared_sent(endpoint_hash(0, local_addr, 0), flow);
}

/// The thread to which a flow is bound: a worker of Envoy handles a connection and all that it dials for it. 0: other threads may
/// handle it as well.
#[inline(always)]
fn thread(flow: &Flow) -> u64 {
    let is_bound = is_zero(flow.comm[0] ^ settings().worker_name).wrapping_neg();
    (u64::from(flow.tid) << 32) & is_bound
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_shared_sent(scope: u64, flow: u64) -> u64 {
    let at = now();
    let mut sends = Sends { flow, at, others_at: 0 };
    if let Some(known) = SHARED_SENDS.get_ptr_mut(scope) {
        // SAFETY: the value lives in the map. Of two sends at once one time may be lost; they are equal in what they prove.
        unsafe {
            if (*known).flow == flow {
                (*known).at = at;
                return 0;
            }
            sends.others_at = (*known).at;
        }
    }
    // It fails only where the map cannot evict; then the next send is noted.
    let _ = SHARED_SENDS.insert(scope, sends, 0);
    0
}

/// A record of a reply is about to be written: notes with its flow whether its interceptor, since it accepted, has sent on a shared
/// connection other than the one that it dialed for it. `pod`: the address of its peer, which is the pod's.
#[inline(always)]
pub fn note_with(reply: &mut Flow, pod: [u8; 16]) {
    let namespace = endpoint_hash(reply.netns, NO_ADDRESS, 0);
    let since = reply.opened_ns;
    let found = egress_shared_since(namespace, reply.link, since)
        | egress_shared_since(namespace ^ thread(reply), reply.link, since)
        | egress_shared_since(endpoint_hash(0, pod, 0), reply.link, since);
    reply.flags |= found as u8 * FLOW_BESIDE_SHARED;
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_shared_since(scope: u64, except: u64, since: u64) -> u64 {
    let Some(sends) = SHARED_SENDS.get_ptr(scope) else { return 0 };
    // SAFETY: the value lives in the map and is only read.
    let at = unsafe { if (*sends).flow == except { (*sends).others_at } else { (*sends).at } };
    u64::from(at != 0 && at >= since)
}
