//! The sidecar of an app's flow: its ports, the sockets that it accepted, and whether their reply is awaited.

use tracer_ebpf::{HEAD_MAX, Role, branchless::sign};

use crate::{
    capture::now,
    context::Tuple,
    link,
    maps::{ACCEPTED, ASKED, Accepted, FLOW_RECORDED, FLOWS, Flow, Kept, WATCH, settings},
    peer,
};

/// Does the sidecar accept on this port?
#[inline(always)]
pub fn is_sidecars_port(port: u16) -> bool {
    settings().is_sidecars_port(port)
}

/// The peer of a sidecar's accepted socket. A connection from outside the pod comes from another namespace, so there the
/// namespace cannot be part of it.
#[inline(always)]
fn peer_at(sidecar_port: u16, netns: u64, addr: [u8; 16], port: u16) -> u64 {
    let inbound = sign(u64::from(settings().is_inbound(sidecar_port)) << 63);
    peer::number(netns & !inbound, addr, port)
}

/// The same of an accepted socket with these ends.
#[inline(always)]
pub fn peer_of(netns: u64, tuple: &Tuple) -> u64 {
    peer_at(tuple.local_port, netns, tuple.remote_addr, tuple.remote_port)
}

/// What is known of the socket with these ends that the sidecar accepted.
#[inline(always)]
pub fn accepted(netns: u64, tuple: &Tuple) -> Option<*mut Accepted> {
    ACCEPTED.look(peer_of(netns, tuple)).get()
}

/// The flow of a socket that the sidecar accepted.
#[inline(always)]
pub fn flow_of(accepted: *mut Accepted) -> Option<*mut Flow> {
    // SAFETY: the values live in the maps and are only read. Another socket may have come to this key, but has another id.
    unsafe {
        let reply = FLOWS.look((*accepted).flow).get()?;
        ((*reply).id == (*accepted).id).then_some(reply)
    }
}

/// A peer knocks at the sidecar's `port`, or is seen there only later.
#[inline(always)]
pub fn expect(peer: u64, netns: u64, port: u16, reply_left: u32) {
    ACCEPTED.put(peer, &Accepted { netns, flow: 0, id: 0, reply_left, port, zero: 0 });
}

/// The sidecar's socket with these ends is this flow. Its peer may have knocked, and even wait for a reply by now.
#[inline(always)]
pub fn established(netns: u64, tuple: &Tuple, flow: u64, state: &mut Flow) {
    let (id, port) = (state.id, tuple.local_port);
    let peer = peer_of(netns, tuple);
    state.kept = Kept { peer };
    ACCEPTED.put_over(peer, |known| {
        // SAFETY: the value lives in the map and is only read.
        state.head_left = known.get().map_or(0, |accepted| unsafe { (*accepted).reply_left });
        Accepted { netns, flow, id, reply_left: state.head_left, port, zero: 0 }
    });
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

/// A socket that the sidecar accepted is gone, and its peer's port may be used for another connection.
#[inline(always)]
pub fn forget(state: &Flow, tuple: impl FnOnce() -> Tuple) {
    // SAFETY: nothing of it has been recorded.
    let kept = || unsafe { state.kept.peer };
    let peer = if state.flags & FLOW_RECORDED == 0 { kept() } else { peer_of(state.netns, &tuple()) };
    // SAFETY: the value is only read, in one load.
    ACCEPTED.take_out_if(peer, |accepted| unsafe { (*accepted).id == state.id });
}

/// Finds the sidecar of an app's flow. When the app asks, its sidecar's reply is awaited from now on, and what the
/// sidecar dials is watched.
#[inline(always)]
pub fn await_reply(netns: u64, tuple: &mut Tuple, asks: bool) {
    let accepted = find_sidecar(netns, tuple);
    if !asks {
        return;
    }
    ASKED.put(tuple.wire_port);
    if let Some(accepted) = accepted {
        // SAFETY: the values live in the maps; a lost race costs at most the reply of a request that was pipelined.
        unsafe {
            (*accepted).reply_left = HEAD_MAX as u32;
            if let Some(reply) = flow_of(accepted) {
                (*reply).head_left = HEAD_MAX as u32;
                link::wanted(&*reply);
            }
        }
    } else if tuple.sidecar_port != 0 {
        // Redirected, but accepted before the programs were attached.
        let peer = peer_at(tuple.sidecar_port, netns, tuple.local_addr, tuple.wire_port);
        expect(peer, netns, tuple.sidecar_port, HEAD_MAX as u32);
        tuple.sidecar_netns = netns;
    } else {
        return;
    }
    WATCH.begin(tuple.sidecar_netns, tuple.remote_addr, tuple.remote_port, now() + settings().watch_ns);
}

/// Has the socket that the sidecar accepted, which has this key in [`FLOWS`] and the same name in records, answered all that it
/// was asked? Of an answer whose head came with a body that is not known: it may be the beginning of a longer head.
#[inline(always)]
pub fn has_answered(reply: u64) -> bool {
    FLOWS.find(reply).is_some_and(|state| {
        // SAFETY: the value lives in the map, and is only read.
        let state = unsafe { &*state };
        state.id == reply && state.flags & FLOW_RECORDED != 0 && state.head_left == 0
    })
}

/// The sidecar's accepted socket whose peer this app's flow is.
#[inline(always)]
pub fn find_sidecar(netns: u64, tuple: &mut Tuple) -> Option<*mut Accepted> {
    let number = |netns| peer::number(netns, tuple.local_addr, tuple.wire_port);
    let accepted = ACCEPTED.look_for_either(number(netns), number(0)).get()?;
    // SAFETY: the value lives in the map; these fields are written once, when it is inserted.
    unsafe {
        tuple.sidecar_port = (*accepted).port;
        tuple.sidecar_netns = (*accepted).netns;
        tuple.sidecar_flow = (*accepted).id;
    }
    Some(accepted)
}
