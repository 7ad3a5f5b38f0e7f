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
    current::{now, processor},
    endpoint::{bytes_of, is_same, words_of},
    state::{
        dials,
        globals::settings,
        interceptors,
        maps::{FLOWS, PENDING_PROXIES},
        values::{FLOW_OUT_OF_SCOPE, Flow, Kept, TaskRecord},
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

/// The current task dials. The source port may not be chosen yet. `flags`: initial flags of the flow. `is_in_scope`: whether the
/// task's cgroup is traced. An interceptor may serve a pod in scope from a cgroup outside of it, as ztunnel does.
#[inline(always)]
pub fn connect(key: u64, netns: u64, tuple: &Tuple, flags: u8, is_in_scope: impl FnOnce() -> bool) {
    if !settings().is_netns_in_scope(netns) {
        return;
    }
    let opened_ns = now();
    if interceptors::is_current() {
        let scope = if is_in_scope() { 0 } else { FLOW_OUT_OF_SCOPE };
        dialed_upstream(key, netns, tuple, flags | scope, opened_ns);
    } else if is_in_scope() {
        insert_dialed(key, Role::App, netns, flags, tuple, opened_ns, &thread::current_owner());
    }
}

/// The current task, an interceptor's, dials.
#[inline(always)]
fn dialed_upstream(key: u64, netns: u64, tuple: &Tuple, flags: u8, opened_ns: u64) {
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
    owner: &TaskRecord,
) -> Option<*mut Flow> {
    let mut flow = new_flow(key, role, netns, flags);
    flow.set_owner(owner);
    flow.opened_ns = opened_ns;
    flow.kept.remote_addr = words_of(tuple.remote_addr);
    flow.remote_port = tuple.remote_port;
    FLOWS.insert(key, &flow)
}

/// The SYN of a dial leaves. An interceptor's port that it goes to is kept with the flow, as packets that leave after the
/// interceptor has reset the connection are not translated any more.
#[inline(always)]
pub fn syn_sent(flow: *mut Flow, tuple: &Tuple) {
    // SAFETY: the value lives in the map; a flow's packets leave one after the other.
    unsafe {
        if !(*flow).has_role(Role::App) {
            // An interceptor dials from outside of the pod that it dials, too: its peer may have an interceptor of its own.
            dials::insert((*flow).netns, tuple);
        } else if tuple.sidecar_port != 0 {
            interceptors::learn_port((*flow).netns, tuple.sidecar_port);
            ((*flow).redirected_port, (*flow).wire_port) = (tuple.sidecar_port, tuple.wire_port);
        } else {
            dials::insert((*flow).netns, tuple);
        }
    }
}

/// Whether a connection that came to this port of an accepted socket, or is about to, is at an interceptor. Learns it from a
/// connection that was redirected.
#[inline(always)]
pub fn is_at_interceptor(netns: u64, tuple: &Tuple) -> bool {
    if interceptors::is_port(netns, tuple.local_port) {
        return true;
    }
    let is_redirected = dials::is_redirected(netns, tuple);
    if is_redirected {
        interceptors::learn_port(netns, tuple.local_port);
    }
    is_redirected
}

/// The current task was told which address the peer of a socket with these ends had dialed. The kernel answers so of every
/// connection that it tracks, dialed ones included; an interceptor is a process for whose accepted socket the answer is another
/// address than the socket's own, by rules of its own namespace (see [`dials::is_redirected`]).
#[inline(always)]
pub fn original_dst_asked(netns: u64, tuple: &Tuple, addr: [u8; 16], port: u16) {
    let is_own = is_same(addr, tuple.local_addr);
    let is_peers = is_same(addr, tuple.remote_addr) && port == tuple.remote_port;
    if (is_own && port == tuple.local_port) || is_peers || !settings().is_netns_in_scope(netns) {
        return;
    }
    if !sidecar::is_from_outside(tuple) || (is_own && netns != settings().host_netns) {
        interceptors::learn_port(netns, tuple.local_port);
        interceptors::learn_current(netns);
    }
}

/// Whether the end of a dialed flow is of interest from the start: an interceptor's, and an app's that goes to a proxy, as its
/// redirect may lead to a port on which no process listens.
#[inline(always)]
pub fn is_end_relevant(key: u64) -> bool {
    FLOWS.find(key).is_some_and(|flow| {
        // SAFETY: the value lives in the map and is only read. No payload was recorded yet, so the union holds the address.
        unsafe {
            (*flow).has_role(Role::Upstream)
                || PENDING_PROXIES.is_proxy(bytes_of((*flow).kept.remote_addr), (*flow).remote_port)
        }
    })
}

/// A SYN reached one of the sidecar's ports. Its peer can send no byte before this (except with TCP Fast Open), so a request is
/// known to be intercepted when it is seen.
#[inline(always)]
pub fn syn_received(netns: u64, tuple: &Tuple) {
    if settings().is_netns_in_scope(netns) {
        sidecar::insert_accepted(peer_of(netns, tuple), netns, tuple.local_port);
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
    // A port of this pod was learned from an app of it that is in scope. A peer from outside says nothing of this pod.
    let flags = if settings.default_scope == NO_SCOPES || !sidecar::is_from_outside(tuple) {
        0
    } else {
        FLOW_OUT_OF_SCOPE
    };
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
        if flow.has_role(Role::Reply) {
            interceptors::learn_current(flow.netns);
        }
        if flow.tgid == 0 {
            flow.opened_ns = at;
            flow.set_owner(&thread.owner);
            if is_in_scope {
                flow.flags &= !FLOW_OUT_OF_SCOPE;
            }
        }
    }
}
