//! The sidecar of an app's flow: its ports, the sockets that it accepted, and whether their reply is awaited. It records
//! nothing.

use tracer_ebpf::{HEAD_MAX, Loss, Peer, Settings};

use crate::{
    capture::now,
    context::Tuple,
    maps::{ACCEPTED, Accepted, Flow, WATCHED, settings},
    ring,
};

/// Does the sidecar accept on this port?
#[inline(always)]
pub fn is_sidecars_port(port: u16) -> bool {
    let settings = settings();
    settings.is_outbound(port) || settings.is_inbound(port)
}

/// The peer of a sidecar's accepted socket, as key. A connection from outside the pod comes from another namespace,
/// so there the namespace cannot be part of it.
#[inline(always)]
pub fn peer_key(settings: &Settings, sidecar_port: u16, netns: u64, addr: [u8; 16], port: u16) -> Peer {
    Peer::new(if settings.is_inbound(sidecar_port) { 0 } else { netns }, addr, port)
}

/// The socket that the sidecar accepted, for a hook that does not know its cookie.
#[inline(always)]
pub fn accepted_flow(netns: u64, tuple: &Tuple) -> Option<u64> {
    let key = peer_key(settings(), tuple.local_port, netns, tuple.remote_addr, tuple.remote_port);
    // SAFETY: the value is only read, in one load.
    let flow = unsafe { ACCEPTED.get(key) }?.flow;
    (flow != 0).then_some(flow)
}

/// A socket that the sidecar accepted is gone, and its peer's port may be used for another connection.
#[inline(always)]
pub fn forget(state: &Flow, tuple: &Tuple) {
    let key = peer_key(settings(), tuple.local_port, state.netns, tuple.remote_addr, tuple.remote_port);
    // SAFETY: the value is only read, in one load.
    if unsafe { ACCEPTED.get(key) }.is_some_and(|accepted| accepted.flow == state.id) {
        let _ = ACCEPTED.remove(key); // It was there.
    }
}

/// Finds the sidecar of an app's flow. When the app asks, its sidecar's reply is awaited from now on, and what the
/// sidecar dials is watched.
#[inline(always)]
pub fn await_reply(netns: u64, tuple: &mut Tuple, asks: bool) {
    let settings = settings();
    let accepted = find_sidecar(netns, tuple);
    if !asks {
        return;
    }
    if let Some(accepted) = accepted {
        // SAFETY: the value lives in the map; a lost race costs at most the reply of a request that was pipelined.
        unsafe { (*accepted).reply_left = HEAD_MAX as u32 };
    } else if tuple.sidecar_port != 0 {
        // Redirected, but accepted before the programs were attached.
        let key = peer_key(settings, tuple.sidecar_port, netns, tuple.local_addr, tuple.wire_port);
        let accepted =
            Accepted { netns, flow: 0, reply_left: HEAD_MAX as u32, port: tuple.sidecar_port, zero: 0 };
        if ACCEPTED.insert(key, accepted, 0).is_err() {
            ring::lost(Loss::MapFull);
        }
        tuple.sidecar_netns = netns;
    } else {
        return;
    }
    if WATCHED.insert(tuple.sidecar_netns, now() + settings.watch_ns, 0).is_err() {
        ring::lost(Loss::MapFull);
    }
}

/// The sidecar's accepted socket whose peer this app's flow is.
#[inline(always)]
pub fn find_sidecar(netns: u64, tuple: &mut Tuple) -> Option<*mut Accepted> {
    let own = Peer::new(netns, tuple.local_addr, tuple.wire_port);
    let accepted = match ACCEPTED.get_ptr_mut(own) {
        Some(accepted) => accepted,
        None => ACCEPTED.get_ptr_mut(Peer { netns: 0, ..own })?,
    };
    // SAFETY: the value lives in the map; these fields are written once, when it is inserted.
    unsafe {
        tuple.sidecar_port = (*accepted).port;
        tuple.sidecar_netns = (*accepted).netns;
        tuple.sidecar_flow = (*accepted).flow;
    }
    Some(accepted)
}

/// Is a request under way in this namespace, so that what its sidecar dials is of interest?
#[inline(always)]
pub fn is_watched(netns: u64) -> bool {
    // SAFETY: the value is only read, in one load.
    unsafe { WATCHED.get(netns) }.is_some_and(|until| now() < *until)
}
