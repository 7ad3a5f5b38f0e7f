//! The sidecar of an app's flow: its ports, the sockets that it accepted, and whether their reply is awaited. It records
//! nothing.

use tracer_ebpf::{HEAD_MAX, Loss, Peer, Role, Settings};

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
fn peer_key(settings: &Settings, sidecar_port: u16, netns: u64, addr: [u8; 16], port: u16) -> Peer {
    Peer::new(if settings.is_inbound(sidecar_port) { 0 } else { netns }, addr, port)
}

/// The same of an accepted socket with these ends.
#[inline(always)]
pub fn peer_of(settings: &Settings, netns: u64, tuple: &Tuple) -> Peer {
    peer_key(settings, tuple.local_port, netns, tuple.remote_addr, tuple.remote_port)
}

/// What is known of the socket that the sidecar accepted from this peer.
#[inline(always)]
pub fn accepted_from(peer: &Peer) -> Option<*mut Accepted> {
    ACCEPTED.get_ptr_mut(peer)
}

/// A peer knocks at the sidecar's `port`, or is seen there only later. `flow`: what the accepted socket is called in records;
/// 0: not known yet.
#[inline(always)]
pub fn expect(peer: Peer, netns: u64, port: u16, flow: u64, reply_left: u32) {
    let accepted = Accepted { netns, flow, reply_left, port, zero: 0 };
    if ACCEPTED.insert(peer, accepted, 0).is_err() {
        ring::lost(Loss::MapFull);
    }
}

/// The socket that the sidecar accepted, for a hook that does not know its cookie.
#[inline(always)]
pub fn accepted_flow(netns: u64, tuple: &Tuple) -> Option<u64> {
    let peer = peer_of(settings(), netns, tuple);
    // SAFETY: the value is only read, in one load.
    let flow = unsafe { (*accepted_from(&peer)?).flow };
    (flow != 0).then_some(flow)
}

/// An app's dial is established, and the sidecar that it was redirected to has been seen. That is kept with the flow: a sidecar
/// that has nowhere to pass the connection on to closes its side at once, and is forgotten before the app says a word.
#[inline(always)]
pub fn keep_port(state: &mut Flow, mut tuple: Tuple) {
    if state.role == Role::App as u8
        && find_sidecar(state.netns, &mut tuple).is_some()
        && tuple.sidecar_netns == state.netns
    {
        state.redirected_port = tuple.sidecar_port;
        state.wire_port = tuple.wire_port;
    }
}

/// Does the peer of a socket that the sidecar accepted wait for a reply?
#[inline(always)]
pub fn is_awaited(state: &Flow, tuple: &Tuple) -> bool {
    let peer = peer_of(settings(), state.netns, tuple);
    // SAFETY: the value is only read; a lost race costs at most the end of a request that came at the same time.
    accepted_from(&peer)
        .is_some_and(|accepted| unsafe { (*accepted).flow == state.id && (*accepted).reply_left != 0 })
}

/// A socket that the sidecar accepted is gone, and its peer's port may be used for another connection.
#[inline(always)]
pub fn forget(state: &Flow, tuple: &Tuple) {
    let peer = peer_of(settings(), state.netns, tuple);
    // SAFETY: the value is only read, in one load.
    if accepted_from(&peer).is_some_and(|accepted| unsafe { (*accepted).flow == state.id }) {
        let _ = ACCEPTED.remove(peer); // It was there.
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
        let peer = peer_key(settings, tuple.sidecar_port, netns, tuple.local_addr, tuple.wire_port);
        expect(peer, netns, tuple.sidecar_port, 0, HEAD_MAX as u32);
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
    let accepted = match accepted_from(&own) {
        Some(accepted) => accepted,
        None => accepted_from(&Peer { netns: 0, ..own })?,
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
