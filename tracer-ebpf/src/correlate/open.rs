//! The start of a flow: a task dials or accepts, a SYN is sent or received, a connection is established.

use tracer_ebpf::{
    Role,
    settings::{NO_SCOPES, NO_UID},
    verifier::opaque_zero,
};

use super::{
    sidecar::{self, peer_of},
    thread, upstream,
};
use crate::{
    context::Tuple,
    current::{now, processor, task_uid},
    endpoint::words_of,
    state::{
        globals::settings,
        maps::{FLOWS, PENDING_PROXIES},
        values::{FLOW_OUT_OF_SCOPE, Flow, Kept, Owner},
    },
};

/// A flow of which nothing but this is known.
#[inline(always)]
pub fn new_flow(key: u64, role: Role, netns: u64, flags: u8) -> Flow {
    let zero = opaque_zero();
    Flow {
        id: flow_id(key),
        opened_ns: zero,
        netns,
        link: 0,
        dialed: zero,
        kept: Kept { remote_addr: [zero; 2] },
        tgid: zero as u32,
        tid: zero as u32,
        uid: NO_UID,
        head_left: 0,
        role: role as u8,
        flags,
        redirected_port: zero as u16,
        wire_port: zero as u16,
        remote_port: zero as u16,
        comm: [zero; 2],
    }
}

/// An id that is never reused. A socket's cookie is one; a socket's address is reused as soon as it is freed.
#[inline(always)]
fn flow_id(key: u64) -> u64 {
    if settings().has_cookies() { key } else { (now() << 8) | u64::from(processor() & 0xff) }
}

/// The current task dials. The source port may not be chosen yet. `flags`: initial flags of the flow.
#[inline(always)]
pub fn connect(key: u64, netns: u64, tuple: &Tuple, flags: u8) {
    let settings = settings();
    if !settings.is_netns_in_scope(netns) {
        return;
    }
    let opened_ns = now();
    if !settings.is_sidecar(task_uid()) {
        insert_dialed(key, Role::App, netns, flags, tuple, opened_ns, &thread::current_owner());
        return;
    }
    let Some(thread) = thread::current(opened_ns) else { return };
    // SAFETY: the value lives in the map, and only this thread writes it.
    let thread = unsafe { &mut *thread };
    let Some(flow) = insert_dialed(key, Role::Upstream, netns, flags, tuple, opened_ns, &thread.owner) else {
        return;
    };
    // SAFETY: the value lives in the map, and its id was just written.
    (thread.dialed, thread.dialed_id) = (key, unsafe { (*flow).id });
    let at = || opened_ns;
    if PENDING_PROXIES.has_namespace(netns, at)
        && PENDING_PROXIES.has_proxy(netns, tuple.remote_addr, tuple.remote_port, at)
    {
        upstream::record_dial(flow);
    }
}

#[inline(always)]
fn insert_dialed(
    key: u64,
    role: Role,
    netns: u64,
    flags: u8,
    tuple: &Tuple,
    opened_ns: u64,
    owner: &Owner,
) -> Option<*mut Flow> {
    let mut flow = new_flow(key, role, netns, flags);
    flow.set_owner(owner);
    flow.opened_ns = opened_ns;
    flow.kept.remote_addr = words_of(tuple.remote_addr);
    flow.remote_port = tuple.remote_port;
    FLOWS.insert(key, &flow)
}

/// The SYN of a dial leaves for a sidecar's port. The port is kept with the flow, as packets that leave after the sidecar has
/// reset the connection are not translated any more.
#[inline(always)]
pub fn syn_sent(flow: *mut Flow, wire_port: u16, port: u16) {
    // SAFETY: the value lives in the map; a flow's packets leave one after the other.
    unsafe { ((*flow).redirected_port, (*flow).wire_port) = (port, wire_port) };
}

/// Whether the flow was dialed by a sidecar: its end is of interest from the start.
#[inline(always)]
pub fn is_upstream(key: u64) -> bool {
    // SAFETY: the value lives in the map and is only read.
    FLOWS.find(key).is_some_and(|flow| unsafe { (*flow).has_role(Role::Upstream) })
}

/// A SYN reached one of the sidecar's ports. Its peer can send no byte before this (except with TCP Fast Open), so a request is
/// known to be intercepted when it is seen.
#[inline(always)]
pub fn syn_received(netns: u64, tuple: &Tuple) {
    if settings().is_netns_in_scope(netns) {
        sidecar::insert_accepted(peer_of(netns, tuple), netns, tuple.local_port, 0);
    }
}

/// A connection to one of the sidecar's ports is established. No SYN may have been seen (SYN cookies, cgroup family). If one
/// was, the client may already wait for a reply (TCP Fast Open).
#[inline(always)]
pub fn established(key: u64, netns: u64, tuple: &Tuple) {
    let settings = settings();
    if !settings.is_netns_in_scope(netns) {
        return;
    }
    let flags = if settings.default_scope == NO_SCOPES { 0 } else { FLOW_OUT_OF_SCOPE };
    let mut flow = new_flow(key, Role::Reply, netns, flags);
    sidecar::established(netns, tuple, key, &mut flow);
    FLOWS.insert(key, &flow);
}

/// The current task, a sidecar, accepts an established connection, so the flow's owner is known. The thread's dials until now
/// were for other connections; those for this one follow. `socket`: a number that is unique among living sockets.
/// `is_in_scope`: whether the sidecar is in scope.
#[inline(always)]
pub fn accept(key: u64, socket: u64, is_in_scope: bool) {
    let at = now();
    let Some(thread) = thread::current(at) else { return };
    // SAFETY: the value lives in the map, and only this thread writes it.
    let thread = unsafe { &mut *thread };
    thread.dialed = 0;
    (thread.accepted, thread.accepted_socket) = (key, socket);
    if let Some(flow) = FLOWS.find(key) {
        // SAFETY: the value lives in the map; only the task that accepts the socket writes its owner.
        let flow = unsafe { &mut *flow };
        if flow.tgid == 0 {
            flow.opened_ns = at;
            flow.set_owner(&thread.owner);
            if is_in_scope {
                flow.flags &= !FLOW_OUT_OF_SCOPE;
            }
        }
    }
}
