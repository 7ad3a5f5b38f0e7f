//! For which accepted socket the sidecar dialled: told by what one of its threads does next. It records nothing; both
//! flows keep the other's name, and their records say it.

use tracer_ebpf::Role;

use crate::{
    maps::{DIALED, Dialed, FLOW_SENT, FLOWS},
    task::current_thread,
};

/// This thread of the sidecar dials `flow`, which records call `id`.
#[inline(always)]
pub fn dialed(flow: u64, id: u64) {
    DIALED.put(current_thread(), &Dialed { flow, id });
}

/// What this thread has dialled was not for what it does from now on.
#[inline(always)]
pub fn forget_dial() {
    DIALED.take_out(current_thread());
}

/// A thread of the sidecar sets `TCP_NODELAY` on a socket that it accepted. Envoy does so to each connection as soon as
/// that has its network filters, and in a chain that passes TCP, the filter has just dialled: for this connection, in
/// the same callback (`ActiveTcpListener::newConnection`, `ActiveTcpConnection`).
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/listener_manager/active_stream_listener_base.cc>
///
/// What an HTTP filter dials is for a request that comes later. It may be taken for the next connection's of the thread,
/// as long as nothing was sent on it and nothing else accepted meanwhile; so a reader holds a link against the bytes.
#[inline(always)]
pub fn taken_up(flow: u64) {
    let thread = current_thread();
    let Some(dialed) = DIALED.find(thread) else { return };
    // SAFETY: the value lives in the map, and only this thread writes it.
    let dialed = unsafe { *dialed };
    DIALED.take_out(thread);
    let Some(reply) = FLOWS.find(flow) else { return };
    // SAFETY: the values live in the map; their links are written here only, by the one thread that handles both.
    unsafe {
        if (*reply).role != Role::Reply as u8 || (*reply).link != 0 {
            return;
        }
        // Not there: a dial that has failed already.
        if let Some(upstream) = FLOWS.find(dialed.flow) {
            if (*upstream).flags & FLOW_SENT != 0 {
                return;
            }
            (*upstream).link = (*reply).id;
        }
        (*reply).link = dialed.id;
    }
}
