//! The payloads of a flow: which of them belong to the head of a request to a proxy, or of its reply, and become records.

use tracer_ebpf::{
    HEAD_MAX, Loss, Role,
    http_prefix::{ends_head, is_interim, is_prefix, may_be_proxy_request},
    verifier::{OpaqueBool, is_zero},
};

use super::{
    open::new_flow,
    sidecar::{self, await_reply, find_sidecar},
    thread,
};
use crate::{
    context::{Context, Sent, Tuple},
    current::now,
    ring,
    sock::message::bounded,
    state::{
        interceptors::{self, may_be_port},
        maps::{FLOWS, PENDING_PROXIES},
        shared_upstreams,
        values::{
            FLOW_LATE, FLOW_OUT_OF_SCOPE, FLOW_RECORDED, FLOW_SENT, FLOW_SHARED, FLOW_WANTED, Flow, Recorded,
        },
    },
};

/// A flow that has sent or received 2^16 bytes is past its first bytes and is not looked at any more. 64 KiB hold a NTLM or
/// Kerberos exchange of several CONNECTs with the bodies of their 407 replies.
const FIRST_BYTES_SHIFT: u32 = 16;

/// How much is copied of what an upstream sends behind a ClientHello: the type and version of a TLS record.
const SECOND_FLIGHT: u32 = 8;

/// Whether a flow is past its first bytes: the early exit of nearly all traffic, which needs two counters of the socket and no
/// lookup.
#[inline(always)]
pub fn is_past_first_bytes(sent: u64, received: u64) -> bool {
    (sent | received) >> FIRST_BYTES_SHIFT != 0
}

/// Whether a payload of eight or more bytes needs nothing but [`FLOW_SENT`], which this sets: a small part of what [`sent`]
/// does. If in doubt it returns false. `first` returns the first eight bytes in little-endian order, if they can be read.
#[inline(always)]
pub fn is_irrelevant(
    known: Option<*mut Flow>,
    is_at_sidecar: bool,
    first: impl FnOnce() -> Option<u64>,
) -> bool {
    let Some(flow) = known else {
        return !is_at_sidecar && first().is_some_and(|first| !is_prefix(first));
    };
    // SAFETY: see `sent`.
    let flow = unsafe { &mut *flow };
    if flow.head_left != 0 {
        return false;
    }
    if flow.has_role(Role::Reply) {
        if flow.flags & FLOW_SENT == 0 {
            return false; // see `sidecar::find_request`
        }
    } else {
        let Some(first) = first() else { return false };
        let is_upstream = flow.has_role(Role::Upstream);
        // A ClientHello is recorded even if no request is known yet, see `sent`.
        let begins_tls = flow.flags & FLOW_SENT == 0 && is_tls(first);
        if is_prefix(first)
            || (is_upstream
                && (begins_tls || flow.flags & FLOW_SHARED != 0 || is_shared(flow, first) || is_wanted(flow)))
        {
            return false;
        }
    }
    flow.flags |= FLOW_SENT;
    true
}

/// A flow that is past its first bytes sent bytes, and may be one that carries several sessions of an interceptor.
#[inline(always)]
pub fn late_bytes_sent<C: Context>(ctx: &C, key: u64) {
    if let Some(flow) = FLOWS.find(key) {
        // SAFETY: the value lives in the map and is only read.
        shared_upstreams::sent(unsafe { &*flow });
    } else if ctx.is_interceptors() {
        shared_upstreams::sent_from(ctx.tuple().local_addr, key);
    }
}

/// A flow sent bytes.
#[inline(always)]
pub fn sent<C: Context>(ctx: &C, known: Option<*mut Flow>, sent: &Sent) {
    let first = match ctx.first() {
        Ok(first) => first,
        Err(reason) => return unreadable(known, reason),
    };
    let begins_request = OpaqueBool::new(may_be_proxy_request(first, sent.len));
    let flow = match known {
        Some(flow) => flow,
        None => match insert_late(ctx, sent.flow, begins_request) {
            Some(flow) => flow,
            None => return,
        },
    };
    // SAFETY: the value lives in the map. A flow's sends come one after the other; two threads that write to one socket at once
    // produce no valid head.
    let flow = unsafe { &mut *flow };
    let is_first = OpaqueBool::new(flow.flags & FLOW_SENT == 0);
    flow.flags |= FLOW_SENT;
    if flow.has_role(Role::Reply) {
        if is_first.get() {
            sidecar::find_request(flow);
        }
        let left = flow.head_left;
        if left == 0 {
            return;
        }
        let tuple = ctx.tuple();
        shared_upstreams::note_with(flow, tuple.remote_addr);
        record(ctx, sent, flow, &tuple);
        // An interim reply ends its head, but the final reply is still to come.
        if sent.len > 9 && is_interim(first, ctx.tenth()) {
            flow.head_left = left;
        }
        return;
    }
    let is_upstream = OpaqueBool::new(flow.has_role(Role::Upstream));
    if OpaqueBool::new(is_first.get() & is_upstream.get() & is_shared(flow, first)).get() {
        shared_upstreams::mark(flow, ctx.local_port());
    }
    shared_upstreams::sent(flow);
    let is_unwanted = flow.flags & (FLOW_OUT_OF_SCOPE | FLOW_RECORDED) == FLOW_OUT_OF_SCOPE;
    if is_unwanted && !PENDING_PROXIES.has_namespace(flow.netns, now) {
        return; // no app in scope waits for it
    }
    // A sidecar that originates TLS may send its ClientHello before the app's request is seen.
    let is_new_upstream = !begins_request.get() && is_upstream.get() && is_first.get();
    if begins_request.get() || (is_new_upstream && (is_tls(first) || is_wanted(flow))) {
        flow.head_left = HEAD_MAX as u32;
    } else if flow.head_left == 0 {
        return;
    }
    let mut tuple = ctx.tuple();
    if tuple.sidecar_port == 0 && flow.redirected_port != 0 {
        tuple.sidecar_port = flow.redirected_port;
        tuple.wire_port = flow.wire_port;
    }
    if !is_upstream.get() {
        if ctx.is_in_sender() && begins_request.get() {
            thread::set_sender(flow);
        }
        await_reply(flow.netns, &mut tuple, begins_request.get());
    } else if begins_request.get() {
        sidecar::await_reply_beyond(&tuple);
    }
    record(ctx, sent, flow, &tuple);
    if is_new_upstream && is_tls(first) && flow.head_left == 0 {
        // Whether the handshake goes on tells whether the peer speaks TLS. A ClientHello with a post-quantum key share is
        // longer than a head.
        flow.head_left = SECOND_FLIGHT;
    }
}

/// Whether a request may wait for this upstream. If it is not known for which accepted socket the upstream was dialed, any
/// pending request in the namespace may.
#[inline(always)]
fn is_wanted(upstream: &Flow) -> bool {
    upstream.flags & FLOW_WANTED != 0
        || (upstream.link == 0 && PENDING_PROXIES.has_namespace(upstream.netns, now))
}

/// Inserts a flow whose start was not seen: it was open before the programs were attached, or was evicted. `None` if it is
/// not of interest.
#[inline(always)]
fn insert_late<C: Context>(ctx: &C, key: u64, begins_request: OpaqueBool) -> Option<*mut Flow> {
    let is_reply = OpaqueBool::new(may_be_port(ctx.local_port()));
    if !is_reply.get() && !begins_request.get() {
        return None;
    }
    let netns = ctx.netns()?;
    let uid = ctx.uid();
    if is_reply.get() {
        // Only a reply that a client in scope waits for is of interest; the client's request is in `ACCEPTED`.
        let tuple = ctx.tuple();
        sidecar::find_accepted(netns, &tuple)?;
        let flow = insert_new(key, Role::Reply, netns, uid)?;
        // SAFETY: the value lives in the map; see `sent`.
        sidecar::established(netns, &tuple, key, unsafe { &mut *flow });
        return Some(flow);
    }
    let role = if ctx.is_interceptors() { Role::Upstream } else { Role::App };
    // Without a known sidecar it cannot be told whether this flow was redirected, so it is not reported.
    if role == Role::App && !ctx.sees_redirection() && find_sidecar(netns, &mut ctx.tuple()).is_none() {
        return None;
    }
    if !ctx.is_in_scope() {
        return None;
    }
    insert_new(key, role, netns, uid)
}

/// Inserts a flow of which only this is known.
#[inline(always)]
fn insert_new(key: u64, role: Role, netns: u64, uid: u32) -> Option<*mut Flow> {
    // A function of its own, as a flow on the caller's stack beside its own values would exceed the 512 bytes of a frame.
    #[inline(never)]
    extern "C" fn insert(key: u64, role: u64, netns: u64, uid: u64) -> *mut Flow {
        let mut flow = new_flow(key, Role::App, netns, FLOW_LATE);
        (flow.role, flow.uid) = (role as u8, uid as u32);
        FLOWS.insert(key, &flow).unwrap_or(core::ptr::null_mut())
    }
    let flow = insert(key, role as u64, netns, uid.into());
    (!flow.is_null()).then_some(flow)
}

/// The bytes of a send cannot be read: a loss if they belong to a head.
#[inline(always)]
fn unreadable(known: Option<*mut Flow>, reason: Loss) {
    let Some(flow) = known else { return };
    // SAFETY: see `sent`.
    let flow = unsafe { &mut *flow };
    if flow.flags & FLOW_SENT == 0 || flow.head_left != 0 {
        ring::lost(reason);
    }
    flow.flags |= FLOW_SENT;
    flow.head_left = 0;
}

/// Writes the record of a payload, unless these bytes were recorded before.
#[inline(always)]
fn record<C: Context>(ctx: &C, sent: &Sent, flow: &mut Flow, tuple: &Tuple) {
    if flow.flags & FLOW_RECORDED == 0 {
        flow.flags |= FLOW_RECORDED;
        let cgroup = ctx.cgroup();
        flow.kept.recorded = Recorded { cgroup, first_seq: sent.seq, next_seq: sent.seq };
        if flow.has_role(Role::Reply) && !ctx.is_in_sender() {
            interceptors::learn_owner(cgroup, ctx.uid());
        }
    }
    // SAFETY: with `FLOW_RECORDED` the union holds this.
    let recorded = unsafe { &mut flow.kept.recorded };
    // A retransmission passes the egress hook again, and a send that would have blocked is repeated.
    if (sent.seq.wrapping_sub(recorded.next_seq) as i32) < 0 {
        return;
    }
    recorded.next_seq = sent.seq.wrapping_add(sent.len);
    let offset = sent.seq.wrapping_sub(recorded.first_seq);
    let len = if sent.len < flow.head_left { sent.len } else { flow.head_left };
    let is_whole = OpaqueBool::new(sent.len >= 4 && ends_head(ctx.last()));
    flow.head_left = if is_whole.get() { 0 } else { flow.head_left - len };
    ring::payload(ctx, flow, tuple, offset, sent.len, bounded(len));
}

/// Whether an upstream that begins with these bytes may carry several sessions: HTTP/2
/// (<https://www.rfc-editor.org/rfc/rfc9113#section-3.4>), or TLS, whose content cannot be read. An upstream that was dialed for
/// one accepted socket carries that one's bytes alone, such as an app's own TLS, unless it goes to the port of HBONE.
#[inline(always)]
fn is_shared(upstream: &Flow, first: u64) -> bool {
    let is_tls = is_zero((first & 0xffff) ^ TLS);
    let is_pooled = is_zero(upstream.link) | is_zero(u64::from(upstream.remote_port ^ HBONE_PORT));
    (is_tls & is_pooled | is_zero(first ^ u64::from_le_bytes(*b"PRI * HT"))) != 0
}

/// The port on which ztunnel and sidecars accept tunnels over HTTP/2 in mutual TLS:
/// <https://github.com/istio/ztunnel/blob/62d8265/src/config.rs>
const HBONE_PORT: u16 = 15008;

/// Whether these bytes begin a TLS handshake: <https://www.rfc-editor.org/rfc/rfc8446#section-5.1>.
#[inline(always)]
fn is_tls(first: u64) -> bool {
    first & 0xffff == TLS
}

const TLS: u64 = u64::from_le_bytes([0x16, 3, 0, 0, 0, 0, 0, 0]);
