//! What the fentry and the kprobe programs share: decides whether a `struct sock` is in scope, and reports its event to
//! `correlate`.

use tracer_ebpf::{record::tcp, verifier::min};

use crate::{
    context::Sent,
    correlate::{
        close::{self, StateChange},
        open, payload, sidecar, upstream,
    },
    sock::{message::SocketMessage, read::read, structure::Sock, syn_data},
    state::{
        dials,
        globals::offset,
        interceptors::{self, is_port, may_be_port},
        maps::FLOWS,
        shared_upstreams,
        values::FLOW_SYN_DATA,
    },
};

const IPPROTO_TCP: u32 = 6;
const TCP_NODELAY: u32 = 1;
const SYN_RECV: u8 = 3;
const LISTEN: u8 = 10;

/// A task dials: source address and port are chosen, the SYN is not sent.
#[inline(always)]
pub fn connect(sk: Sock) {
    let Some(netns) = sk.netns_in_scope() else { return };
    let tuple = sk.tuple();
    open::connect(sk.0, netns, &tuple, syn_data::at_connect(sk), || sk.cgroup().is_in_scope());
    dials::insert(netns, &tuple);
}

/// Whether a flow is past its first bytes. A sender has mostly sent enough, and then this reads one counter of two.
#[inline(always)]
pub fn is_past_first_bytes(sk: Sock) -> bool {
    payload::is_past_first_bytes(sk.bytes_acked(), 0) || payload::is_past_first_bytes(0, sk.bytes_received())
}

/// A task sends on a flow that is not past its first bytes.
#[inline(always)]
pub fn send(sk: Sock, message: u64, size: u64) {
    if size == 0 {
        return;
    }
    let len = min(size, u32::MAX.into()) as u32;
    let state = sk.state();
    if state == tcp::CLOSE || state == tcp::SYN_SENT {
        syn_data::keep(sk, message, len, state);
    } else {
        let sent = Sent { flow: sk.0, seq: sk.write_seq(), len };
        payload::sent(&SocketMessage::find(sk, message, len), FLOWS.find(sk.0), &sent);
    }
}

/// A task sends on a flow that is past its first bytes, and may be one that carries several sessions of an interceptor.
#[inline(always)]
pub fn send_late(sk: Sock) {
    if !shared_upstreams::may_be_port(sk.local_port()) {
        return;
    }
    if let Some(flow) = FLOWS.find(sk.0) {
        // SAFETY: the value lives in the map and is only read.
        shared_upstreams::sent(unsafe { &*flow });
    } else if interceptors::is_current()
        && let Some(netns) = sk.netns_in_scope()
    {
        shared_upstreams::sent_in(netns, sk.0);
    }
}

/// A SYN came, and the SYN-ACK is about to be sent.
#[inline(always)]
pub fn syn_received(listener: Sock, request: Sock) {
    let tuple = request.tuple();
    if let Some(netns) = listener.netns_in_scope()
        && open::is_at_interceptor(netns, &tuple)
    {
        open::syn_received(netns, &tuple);
    }
}

/// A task accepts.
#[inline(always)]
pub fn accept(sk: Sock) {
    if sk.is_tcp() && sk.is_at_interceptor() {
        open::accept(sk.0, sk.0, sk.cgroup().is_in_scope());
    }
}

/// A task sets an option of a `struct socket *`. Of interest: a sidecar sets `TCP_NODELAY` on an accepted socket.
#[inline(always)]
pub fn set_option(socket: u64, level: u32, option: u32) {
    if level == IPPROTO_TCP && option == TCP_NODELAY {
        let sk = Sock(read(socket, offset!(socket_sk)));
        if sk.is_tcp() && may_be_port(sk.local_port()) {
            upstream::nodelay_set(|_| FLOWS.find(sk.0));
        }
    }
}

/// A socket's TCP state changes.
#[inline(always)]
pub fn state_changed(sk: Sock, from: u8, to: u8) {
    // The tracepoint also fires for MPTCP, SCTP and DCCP, whose structures differ.
    if !sk.is_tcp() {
        return;
    }
    if close::is_end(to) {
        let by_peer = sk.has_error();
        let received = sk.bytes_received();
        let segments = sk.data_segments_out();
        close::state_changed(sk.0, || sk.tuple(), &StateChange { from, to, by_peer, received, segments });
    } else if to == LISTEN {
        // `listen(2)` changes the state in its caller's context.
        if interceptors::is_current()
            && let Some(netns) = sk.netns_in_scope()
        {
            interceptors::learn_port(netns, sk.local_port());
        }
    } else if to == tcp::ESTABLISHED && from == tcp::SYN_SENT {
        connected(sk);
    } else if to == tcp::ESTABLISHED && from == SYN_RECV && may_be_port(sk.local_port()) {
        if let Some(netns) = sk.netns_in_scope()
            && is_port(netns, sk.local_port())
        {
            open::established(sk.0, netns, &sk.tuple());
        }
    }
}

/// A dialed connection is established: the payload that was sent before now counts as sent.
#[inline(always)]
fn connected(sk: Sock) {
    let known = FLOWS.find(sk.0);
    let Some(flow) = known else { return };
    // SAFETY: the value lives in the map; a socket's events come one after the other.
    unsafe {
        sidecar::keep_port(&mut *flow, sk.tuple());
        if (*flow).flags & FLOW_SYN_DATA == 0 {
            return;
        }
        (*flow).flags &= !FLOW_SYN_DATA;
    }
    syn_data::take(sk, |message, sent| payload::sent(message, known, sent));
}
