//! Links a sidecar's dial to the accepted socket that it was for, by the order of one thread's calls. Both flows keep the
//! other's id. A dial makes a record only if a request may wait for it, as most connections carry no request to a proxy.

use core::mem::replace;

use tracer_ebpf::Role;

use super::thread;
use crate::{
    ring,
    state::{
        maps::FLOWS,
        values::{FLOW_RECORDED, FLOW_SENT, FLOW_SET_UP, FLOW_WANTED, Flow, Thread},
    },
};

/// A sidecar's thread sets `TCP_NODELAY` on a socket that it accepted. Envoy does so for each connection once it has built the
/// network filters; in a filter chain that passes TCP, the filter has just dialed, in the same callback
/// (`ActiveTcpListener::newConnection`, `ActiveTcpConnection`):
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/listener_manager/active_stream_listener_base.cc>
///
/// An HTTP filter dials for a later request. Such a dial may be linked to the thread's next connection, if nothing was sent on
/// it and the thread has accepted nothing meanwhile; so userspace checks a link against the bytes.
///
/// A connection that a filter closed in that callback, for lack of an endpoint, has no descriptor any more, and Envoy leaves the
/// option out (`ConnectionImpl::noDelay`): [`FLOW_SET_UP`] tells the two apart.
///
/// `find_accepted` returns the flow of that socket.
#[inline(always)]
pub fn nodelay_set(find_accepted: impl FnOnce(Option<&Thread>) -> Option<*mut Flow>) {
    // SAFETY: the value lives in the map, and only this thread writes it. If the entry is from an earlier thread at this
    // address, that thread's dial is closed or has sent bytes by now.
    let mut thread = thread::find_current().map(|thread| unsafe { &mut *thread });
    let dialed = thread.as_mut().map_or(0, |thread| replace(&mut thread.dialed, 0));
    let Some(reply) = find_accepted(thread.as_deref()) else { return };
    // SAFETY: the values live in the map; only the thread that handles both writes their links, here. No other program writes the
    // flags of a socket that has sent nothing yet.
    unsafe {
        if !(*reply).has_role(Role::Reply) {
            return;
        }
        (*reply).flags |= FLOW_SET_UP;
        let Some(thread) = thread.filter(|_| dialed != 0 && (*reply).link == 0) else { return };
        // Absent if the dial has failed already.
        if let Some(upstream) = FLOWS.find(dialed) {
            if (*upstream).flags & FLOW_SENT != 0 {
                return;
            }
            (*upstream).link = (*reply).id;
        }
        (*reply).link = thread.dialed_id;
        (*reply).dialed = dialed;
        if (*reply).head_left != 0 {
            reply_awaited(&*reply);
        }
    }
}

/// A client waits for the reply of this accepted socket, so the dial that was for it is recorded.
#[inline(always)]
pub fn reply_awaited(reply: &Flow) {
    if let Some(upstream) = FLOWS.find(reply.dialed)
        // SAFETY: the value lives in the map and is only read. Another socket may have this key by now, but its link differs.
        && unsafe { (*upstream).link } == reply.id
        && reply.dialed != 0
    {
        record_dial(upstream);
    }
}

/// Writes the record of a sidecar's dial that a request may wait for, unless it was written before.
#[inline(always)]
pub fn record_dial(upstream: *mut Flow) {
    // SAFETY: the value lives in the map. In a race the record is written twice, which is harmless.
    let upstream = unsafe { &mut *upstream };
    if upstream.flags & (FLOW_WANTED | FLOW_RECORDED) == 0 {
        upstream.flags |= FLOW_WANTED;
        ring::dial(upstream);
    }
}
