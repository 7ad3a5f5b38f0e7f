//! The sidecar of an app's flow: its ports, its accepted sockets, and whether a client waits for their reply.

use tracer_ebpf::{HEAD_MAX, Role};

use super::upstream;
use crate::{
    context::Tuple,
    current::now,
    endpoint::{endpoint_hash, is_loopback, is_same},
    state::{
        globals::settings,
        interceptors,
        maps::{ACCEPTED, FLOWS, PENDING_PROXIES, REQUEST_PORTS},
        pending_proxies::insert_proxy,
        values::{Accepted, FLOW_RECORDED, Flow, Kept},
    },
};

/// Whether an accepted socket's peer is outside the pod: a connection within the pod has a loopback address, or one address at both
/// ends.
#[inline(always)]
pub fn is_from_outside(tuple: &Tuple) -> bool {
    !is_loopback(tuple.local_addr) && !is_same(tuple.local_addr, tuple.remote_addr)
}

/// The key in `ACCEPTED` of an accepted socket with these ends. A connection from outside the pod comes from another namespace,
/// so its key has none.
#[inline(always)]
pub fn peer_of(netns: u64, tuple: &Tuple) -> u64 {
    let netns = if is_from_outside(tuple) { 0 } else { netns };
    endpoint_hash(netns, tuple.remote_addr, tuple.remote_port)
}

/// The entry of the sidecar's accepted socket with these ends.
#[inline(always)]
pub fn find_accepted(netns: u64, tuple: &Tuple) -> Option<*mut Accepted> {
    ACCEPTED.find(peer_of(netns, tuple))
}

/// The flow of an accepted socket.
#[inline(always)]
pub fn flow_of(accepted: *mut Accepted) -> Option<*mut Flow> {
    // SAFETY: the values live in the maps and are only read. Another socket may have this key by now, but its id differs.
    unsafe {
        let reply = FLOWS.find((*accepted).flow)?;
        ((*reply).id == (*accepted).id).then_some(reply)
    }
}

/// Inserts the accepted socket of a peer whose SYN came. The peer has sent no request on this connection.
#[inline(always)]
pub fn insert_accepted(peer: u64, netns: u64, port: u16) {
    ACCEPTED.insert(peer, &Accepted { netns, flow: 0, id: 0, reply_left: 0, port, zero: 0 });
}

/// The connection of the sidecar's socket with these ends is established. Its peer may be in `ACCEPTED`, and may even wait for
/// a reply.
///
/// The peer's first packet may leave at the same time on another processor ([`await_reply`]). So neither side replaces the other's
/// entry: this one writes all fields but `reply_left`, the other one only that. If each has read the other's field too early,
/// [`find_request`] makes up for it.
#[inline(always)]
pub fn established(netns: u64, tuple: &Tuple, key: u64, flow: &mut Flow) {
    let (id, port) = (flow.id, tuple.local_port);
    let peer = peer_of(netns, tuple);
    flow.kept = Kept { peer };
    let new = Accepted { netns, flow: key, id, reply_left: 0, port, zero: 0 };
    if let Some(accepted) = ACCEPTED.find_or_insert(peer, &new) {
        // SAFETY: the value lives in the map, and each field is an aligned word or half of one.
        unsafe {
            ((*accepted).flow, (*accepted).id) = (key, id);
            ((*accepted).netns, (*accepted).port) = (netns, port);
            flow.head_left = (*accepted).reply_left;
        }
    }
}

/// The sidecar's accepted socket sends its first bytes. Its peer may have sent a request while the connection was being
/// established, in which case neither side found the other.
///
/// It needs no barrier to see that request: `reply_left` is written before the request's packet is queued, and the bytes answer
/// the request, so the sidecar has taken that packet from the queue. The locks of both sockets order the two.
#[inline(always)]
pub fn find_request(reply: &mut Flow) {
    if reply.head_left != 0 || reply.flags & FLOW_RECORDED != 0 {
        return;
    }
    // SAFETY: no payload of it was recorded, so the union holds the peer. The value lives in the map and is only read.
    unsafe {
        let Some(accepted) = ACCEPTED.find(reply.kept.peer) else { return };
        // 0: the entry was evicted, and the request has made a new one.
        if (*accepted).id == reply.id || (*accepted).id == 0 {
            reply.head_left = (*accepted).reply_left;
        }
    }
    if reply.head_left != 0 {
        upstream::reply_awaited(reply);
    }
}

/// An app's dial is established, and the sidecar that it was redirected to is known. The port is kept with the flow, as a sidecar
/// without a destination closes its side at once and is removed before the app sends a byte.
#[inline(always)]
pub fn keep_port(flow: &mut Flow, mut tuple: Tuple) {
    if flow.has_role(Role::App)
        && find_sidecar(flow.netns, &mut tuple).is_some()
        && tuple.sidecar_netns == flow.netns
    {
        flow.redirected_port = tuple.sidecar_port;
        flow.wire_port = tuple.wire_port;
    }
}

/// Removes a closed accepted socket, as its peer's port may be used for another connection.
#[inline(always)]
pub fn remove_accepted(flow: &Flow, tuple: impl FnOnce() -> Tuple) {
    // SAFETY: used only if no payload of it was recorded, so the union holds the peer.
    let kept = || unsafe { flow.kept.peer };
    let peer = if flow.flags & FLOW_RECORDED == 0 { kept() } else { peer_of(flow.netns, &tuple()) };
    // SAFETY: the value is only read, in one load.
    if ACCEPTED.find(peer).is_some_and(|accepted| unsafe { (*accepted).id == flow.id }) {
        ACCEPTED.remove(peer);
    }
}

/// Finds the sidecar of an app's flow. If the app's payload begins a request, the sidecar's reply and its dials are recorded
/// from now on.
#[inline(always)]
pub fn await_reply(netns: u64, tuple: &mut Tuple, begins_request: bool) {
    let accepted = find_sidecar(netns, tuple);
    if !begins_request {
        return;
    }
    REQUEST_PORTS.insert(tuple.wire_port);
    insert_proxy(tuple.remote_addr, tuple.remote_port);
    if let Some(accepted) = accepted {
        // SAFETY: the values live in the maps; a lost race costs at most the reply to a pipelined request.
        unsafe {
            (*accepted).reply_left = HEAD_MAX as u32;
            if let Some(reply) = flow_of(accepted) {
                (*reply).head_left = HEAD_MAX as u32;
                upstream::reply_awaited(&*reply);
            }
        }
    } else if tuple.sidecar_port != 0 || is_own_listener(netns, tuple) {
        // Redirected, but not established yet, or accepted before the programs were attached.
        interceptors::learn_port(netns, tuple.sidecar_port);
        let peer = endpoint_hash(netns, tuple.local_addr, tuple.wire_port);
        let (reply_left, port) = (HEAD_MAX as u32, tuple.sidecar_port);
        let new = Accepted { netns, flow: 0, id: 0, reply_left, port, zero: 0 };
        if let Some(accepted) = ACCEPTED.find_or_insert(peer, &new) {
            // SAFETY: an aligned word that lives in the map; see `established`.
            unsafe { (*accepted).reply_left = reply_left };
        }
        tuple.sidecar_netns = netns;
    } else {
        return;
    }
    let until = now() + settings().watch_ns;
    PENDING_PROXIES.insert(tuple.sidecar_netns, tuple.remote_addr, tuple.remote_port, until);
}

/// Whether an app has dialed a listener of its own pod's sidecar, which no redirect shows; notes its port, if so.
#[inline(always)]
fn is_own_listener(netns: u64, tuple: &mut Tuple) -> bool {
    let is_local = is_loopback(tuple.remote_addr) || is_same(tuple.remote_addr, tuple.local_addr);
    let found = is_local && interceptors::is_port(netns, tuple.remote_port);
    if found {
        tuple.sidecar_port = tuple.remote_port;
    }
    found
}

/// A sidecar's upstream begins with a request. If the pod that it dialed has a sidecar of its own, that one's reply and its dials
/// are recorded from now on, too.
#[inline(never)]
pub extern "C" fn await_reply_beyond(tuple: &Tuple) {
    let Some(accepted) = ACCEPTED.find(endpoint_hash(0, tuple.local_addr, tuple.wire_port)) else { return };
    REQUEST_PORTS.insert(tuple.wire_port);
    // SAFETY: the values live in the maps; see `established`.
    unsafe {
        (*accepted).reply_left = HEAD_MAX as u32;
        if let Some(reply) = flow_of(accepted) {
            (*reply).head_left = HEAD_MAX as u32;
            upstream::reply_awaited(&*reply);
        }
        let until = now() + settings().watch_ns;
        PENDING_PROXIES.insert((*accepted).netns, tuple.remote_addr, tuple.remote_port, until);
    }
}

/// Whether the accepted socket with this id, which is also its key in `FLOWS`, has answered all requests. Not true of a reply
/// whose head came in one payload with a body: to this side that may be the start of a longer head.
#[inline(always)]
pub fn has_answered(reply: u64) -> bool {
    FLOWS.find(reply).is_some_and(|flow| {
        // SAFETY: the value lives in the map and is only read.
        let flow = unsafe { &*flow };
        flow.id == reply && flow.flags & FLOW_RECORDED != 0 && flow.head_left == 0
    })
}

/// The sidecar's accepted socket whose peer is this app's flow; completes the tuple with it.
#[inline(always)]
pub fn find_sidecar(netns: u64, tuple: &mut Tuple) -> Option<*mut Accepted> {
    let peer = |netns| endpoint_hash(netns, tuple.local_addr, tuple.wire_port);
    let accepted = ACCEPTED.find(peer(netns)).or_else(|| ACCEPTED.find(peer(0)))?;
    // SAFETY: the value lives in the map, and each field is an aligned word or half of one.
    unsafe {
        tuple.sidecar_port = (*accepted).port;
        tuple.sidecar_netns = (*accepted).netns;
        tuple.sidecar_flow = (*accepted).id;
    }
    Some(accepted)
}
