//! For which accepted socket the sidecar dialled: told by what one of its threads does next. Both flows keep the other's
//! name, and their records say it. A dial makes a record of its own only where somebody waits for what comes of it: most are
//! for connections that ask nothing of a proxy.

use core::mem::replace;

use tracer_ebpf::Role;

use crate::{
    maps::{FLOW_RECORDED, FLOW_SENT, FLOW_WANTED, FLOWS, Flow, Thread},
    ring, task,
};

/// A thread of the sidecar sets `TCP_NODELAY` on a socket that it accepted. Envoy does so to each connection as soon as
/// that has its network filters, and in a chain that passes TCP, the filter has just dialled: for this connection, in
/// the same callback (`ActiveTcpListener::newConnection`, `ActiveTcpConnection`).
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/listener_manager/active_stream_listener_base.cc>
///
/// What an HTTP filter dials is for a request that comes later. It may be taken for the next connection's of the thread,
/// as long as nothing was sent on it and nothing else accepted meanwhile; so a reader holds a link against the bytes.
///
/// `accepted` finds what is known of that socket.
#[inline(always)]
pub fn taken_up(accepted: impl FnOnce(&Thread) -> Option<*mut Flow>) {
    let Some(thread) = task::find_current() else { return };
    // SAFETY: the value lives in the map, and only this thread writes it. Another one that had this address before it has left
    // what it dialled, if at all, long ago: then that is gone, or has sent something.
    let thread = unsafe { &mut *thread };
    let dialed = replace(&mut thread.dialed, 0);
    if dialed == 0 {
        return;
    }
    let Some(reply) = accepted(thread) else { return };
    // SAFETY: the values live in the map; their links are written here only, by the one thread that handles both.
    unsafe {
        if (*reply).role != Role::Reply as u8 || (*reply).link != 0 {
            return;
        }
        // Not there: a dial that has failed already.
        if let Some(upstream) = FLOWS.find(dialed) {
            if (*upstream).flags & FLOW_SENT != 0 {
                return;
            }
            (*upstream).link = (*reply).id;
        }
        (*reply).link = thread.dialed_id;
        (*reply).dialed = dialed;
        if (*reply).head_left != 0 {
            wanted(&*reply);
        }
    }
}

/// Somebody waits for what this accepted socket answers.
#[inline(always)]
pub fn wanted(reply: &Flow) {
    if let Some(upstream) = FLOWS.look(reply.dialed).get()
        // SAFETY: the value lives in the map and is only read. Another socket may have come to this key, but it is not linked to
        // this one.
        && unsafe { (*upstream).link } == reply.id
        && reply.dialed != 0
    {
        want(upstream);
    }
}

/// What the sidecar dialled may be for somebody who waits: now the dial makes its record.
#[inline(always)]
pub fn want(upstream: *mut Flow) {
    // SAFETY: the value lives in the map. Who loses a race makes the record twice, which says the same.
    let upstream = unsafe { &mut *upstream };
    if upstream.flags & (FLOW_WANTED | FLOW_RECORDED) == 0 {
        upstream.flags |= FLOW_WANTED;
        ring::dial(upstream);
    }
}
