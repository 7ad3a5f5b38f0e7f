//! The core that every shell calls: what a dial, an accept and sent bytes mean for the flow they belong to, and which of
//! them become records (what an end means says `ending`). It knows sockets and first bytes; it makes no verdict.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_ebpf::{
    HEAD_MAX, Loss, Role,
    opening::{concerns_us, ends_head, is_interim, is_opening},
    settings::{NO_SCOPES, NO_UID},
};

use crate::{
    address::words_of,
    context::{Context, Sent, Tuple},
    link,
    maps::{
        FLOW_LATE, FLOW_RECORDED, FLOW_SENT, FLOW_STRANGERS, FLOW_WANTED, FLOWS, Flow, Kept, Recorded, WATCH,
        settings,
    },
    opaque::{Maybe, opaque_zero},
    ring,
    sidecar::{self, await_reply, find_sidecar, is_sidecars_port, peer_of},
    table_map::Looked,
    task,
};

/// A flow that has sent or received this many bytes (as a power of two) is past its first bytes: nothing more of it
/// is looked at. 64 KiB hold a NTLM or Kerberos exchange of several CONNECTs, and the bodies of their 407s.
const FIRST_BYTES_SHIFT: u32 = 16;

/// The exit that nearly all traffic takes: two counters of the socket, no look-up.
#[inline(always)]
pub fn is_past_first_bytes(sent: u64, received: u64) -> bool {
    (sent | received) >> FIRST_BYTES_SHIFT != 0
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_ns() }
}

/// A flow of which nothing is known but this. `role`: a `Role`.
#[inline(always)]
fn flow_of(flow: u64, role: u8, netns: u64, flags: u8) -> Flow {
    let zero = opaque_zero(); // of constants, LLVM would make a call of `memset`, which is a loop
    Flow {
        id: id_of(flow),
        opened_ns: zero,
        netns,
        link: 0,
        dialed: zero,
        kept: Kept { remote_addr: [zero; 2] },
        tgid: zero as u32,
        tid: zero as u32,
        uid: NO_UID,
        head_left: 0,
        role,
        flags,
        redirected_port: zero as u16,
        wire_port: zero as u16,
        remote_port: zero as u16,
        comm: [zero; 2],
    }
}

/// What a flow is called in records: something that never comes again. A socket's cookie is that; a socket's address is given to
/// another socket as soon as it is free.
#[inline(always)]
fn id_of(flow: u64) -> u64 {
    if settings().has_cookies() {
        return flow;
    }
    // SAFETY: takes nothing, returns a number.
    (now() << 8) | u64::from(unsafe { bpf_get_smp_processor_id() } & 0xff)
}

/// The current task dials. The source port may not be chosen yet. `flags`: what is known beyond that.
#[inline(always)]
pub fn dialed(flow: u64, netns: u64, tuple: &Tuple, flags: u8) {
    let settings = settings();
    if !settings.is_netns_in_scope(netns) {
        return;
    }
    let opened_ns = now();
    let thread = task::current(opened_ns);
    // SAFETY: the value lives in the map, and only this thread writes it.
    let thread = unsafe { &mut *thread };
    let mut state = flow_of(flow, thread.role as u8, netns, flags);
    state.take_owner(thread);
    state.opened_ns = opened_ns;
    state.kept.remote_addr = words_of(tuple.remote_addr);
    state.remote_port = tuple.remote_port;
    let id = state.id;
    let state = FLOWS.put(flow, &state);
    if thread.role == Role::Upstream as u32 {
        (thread.dialed, thread.dialed_id) = (flow, id);
        let at = || opened_ns;
        if WATCH.is_in(netns, at) && WATCH.is_to(netns, tuple.remote_addr, tuple.remote_port, at) {
            link::want(state);
        }
    }
}

/// A dial's first packet leaves for a sidecar's port. That is kept: a packet that leaves after the sidecar has reset the
/// connection is not translated any more.
#[inline(always)]
pub fn began(state: *mut Flow, wire_port: u16, port: u16) {
    // SAFETY: the value lives in the map; a flow's packets leave one after the other.
    unsafe { ((*state).redirected_port, (*state).wire_port) = (port, wire_port) };
}

/// Is this the sidecar's own dial, whose end matters from the start?
#[inline(always)]
pub fn is_sidecars_dial(flow: u64) -> bool {
    // SAFETY: the value lives in the map, and is only read.
    FLOWS.find(flow).is_some_and(|state| unsafe { (*state).role == Role::Upstream as u8 })
}

/// Somebody knocks at one of the sidecar's ports. This is before its peer can send a byte (but for TCP fast open), so
/// a request is known to be intercepted when it is seen.
#[inline(always)]
pub fn knocked(netns: u64, tuple: &Tuple) {
    let settings = settings();
    if settings.is_netns_in_scope(netns) {
        sidecar::expect(peer_of(netns, tuple), netns, tuple.local_port, 0);
    }
}

/// A connection to one of the sidecar's ports is established. With SYN cookies, and in the cgroup family, nobody was seen
/// to knock before; where somebody was, or what came with his SYN (TCP fast open), he may even wait for a reply by now.
#[inline(always)]
pub fn established(flow: u64, netns: u64, tuple: &Tuple) {
    let settings = settings();
    if !settings.is_netns_in_scope(netns) {
        return;
    }
    let flags = if settings.unnamed == NO_SCOPES { 0 } else { FLOW_STRANGERS };
    let mut state = flow_of(flow, Role::Reply as u8, netns, flags);
    sidecar::established(netns, tuple, flow, &mut state);
    FLOWS.put(flow, &state);
}

/// The sidecar took an established connection: now its owner is known, and when it began with it. Whatever this
/// thread dials for the connection, it dials later; what it has dialled was for another. `socket`: a number that no other has while
/// this one lives. `is_in_scope`: the sidecar is.
#[inline(always)]
pub fn accepted(flow: u64, socket: u64, is_in_scope: bool) {
    let at = now();
    let thread = task::current(at);
    // SAFETY: the value lives in the map, and only this thread writes it.
    let thread = unsafe { &mut *thread };
    thread.dialed = 0;
    (thread.accepted, thread.accepted_socket) = (flow, socket);
    if let Some(state) = FLOWS.find(flow) {
        // SAFETY: the value lives in the map; the socket is the caller's, and nobody else writes its owner.
        let state = unsafe { &mut *state };
        if state.tgid == 0 {
            state.opened_ns = at;
            state.take_owner(thread);
            if is_in_scope {
                state.flags &= !FLOW_STRANGERS;
            }
        }
    }
}

/// Is nothing to be done for a payload of eight or more bytes but to remember that there was one? A first look, which takes a
/// small part of what [`sent`] does; where in doubt, it says no. `first` gives the first eight bytes, little-endian, if they can
/// be read.
#[inline(always)]
pub fn is_quiet(known: Option<*mut Flow>, is_at_sidecar: bool, first: impl FnOnce() -> Option<u64>) -> bool {
    let Some(state) = known else {
        return !is_at_sidecar && first().is_some_and(|first| !is_opening(first));
    };
    // SAFETY: see `sent`.
    let state = unsafe { &mut *state };
    if state.head_left != 0 {
        return false;
    }
    if state.role != Role::Reply as u8 {
        let Some(first) = first() else { return false };
        let is_upstream = state.role == Role::Upstream as u8;
        if is_opening(first) || (is_upstream && (is_tls(first) || is_wanted(state))) {
            return false;
        }
    }
    state.flags |= FLOW_SENT;
    true
}

/// A flow, of which this is known, sent bytes.
#[inline(always)]
pub fn sent<C: Context>(ctx: &C, known: Looked<Flow>, sent: &Sent) {
    let first = match ctx.first() {
        Ok(first) => first,
        Err(reason) => return unreadable(known, reason),
    };
    let opens = Maybe::new(concerns_us(first, sent.len));
    let state = match known.get() {
        Some(state) => state,
        None => match late(ctx, sent.flow, opens) {
            Some(state) => state,
            None => return,
        },
    };
    // SAFETY: the value lives in the map. A flow's sends come one after the other (two threads that write to one socket
    // at the same time make no head anyway), so nobody else writes.
    let state = unsafe { &mut *state };
    let is_first = Maybe::new(state.flags & FLOW_SENT == 0);
    state.flags |= FLOW_SENT;
    if state.role == Role::Reply as u8 {
        let left = state.head_left;
        if left == 0 {
            return;
        }
        record(ctx, sent, state, &ctx.tuple());
        // An interim reply ends its head, but the one that counts is still to come.
        if sent.len > 9 && is_interim(first, ctx.tenth()) {
            state.head_left = left;
        }
        return;
    }
    let is_upstream = Maybe::new(state.role == Role::Upstream as u8);
    // A sidecar that wraps a connection in TLS may say hello before its app has said what it wants.
    let is_new_upstream = !opens.is() && is_upstream.is() && is_first.is();
    if opens.is() || (is_new_upstream && (is_tls(first) || is_wanted(state))) {
        state.head_left = HEAD_MAX as u32;
    } else if state.head_left == 0 {
        return;
    }
    let mut tuple = ctx.tuple();
    if tuple.sidecar_port == 0 && state.redirected_port != 0 {
        tuple.sidecar_port = state.redirected_port;
        tuple.wire_port = state.wire_port;
    }
    if !is_upstream.is() {
        await_reply(state.netns, &mut tuple, opens.is());
    }
    record(ctx, sent, state, &tuple);
}

/// May somebody wait for what comes of this socket, which the sidecar dialled? Where it is known for which connection that
/// was, he does or he does not; where it is not, anybody in the namespace may.
#[inline(always)]
fn is_wanted(upstream: &Flow) -> bool {
    upstream.flags & FLOW_WANTED != 0 || (upstream.link == 0 && WATCH.is_in(upstream.netns, now))
}

/// A flow whose beginning was not seen: it was open before the programs were attached, or fell out of the map.
#[inline(always)]
fn late<C: Context>(ctx: &C, flow: u64, opens: Maybe) -> Option<*mut Flow> {
    let is_reply = Maybe::new(is_sidecars_port(ctx.local_port()));
    if !is_reply.is() && !opens.is() {
        return None;
    }
    let netns = ctx.netns()?;
    let settings = settings();
    let uid = ctx.uid();
    if is_reply.is() {
        // Only a reply that somebody waits for is worth an entry, and his is the scope that counts.
        let tuple = ctx.tuple();
        sidecar::accepted(netns, &tuple)?;
        let mut state = flow_of(flow, Role::Reply as u8, netns, FLOW_LATE);
        state.uid = uid;
        sidecar::established(netns, &tuple, flow, &mut state);
        return Some(FLOWS.put(flow, &state));
    }
    let role = if settings.is_sidecar(uid) { Role::Upstream } else { Role::App };
    // Whether this one goes to the proxy or to a sidecar cannot be told, and nothing is said of it.
    if role == Role::App && !ctx.sees_redirection() && find_sidecar(netns, &mut ctx.tuple()).is_none() {
        return None;
    }
    if !ctx.is_in_scope() {
        return None;
    }
    let mut state = flow_of(flow, role as u8, netns, FLOW_LATE);
    state.uid = uid;
    Some(FLOWS.put(flow, &state))
}

/// The bytes of a send cannot be read. That matters where they belong to a head.
#[inline(always)]
fn unreadable(known: Looked<Flow>, reason: Loss) {
    let Some(state) = known.get() else { return };
    // SAFETY: see `sent`.
    let state = unsafe { &mut *state };
    if state.flags & FLOW_SENT == 0 || state.head_left != 0 {
        ring::lost(reason);
    }
    state.flags |= FLOW_SENT;
    state.head_left = 0;
}

/// Copies a payload of a flow that is being followed, unless it was copied before.
#[inline(always)]
fn record<C: Context>(ctx: &C, sent: &Sent, state: &mut Flow, tuple: &Tuple) {
    if state.flags & FLOW_RECORDED == 0 {
        state.flags |= FLOW_RECORDED;
        state.kept.recorded = Recorded { cgroup: ctx.cgroup(), first_seq: sent.seq, next_seq: sent.seq };
    }
    // SAFETY: the flag says so.
    let recorded = unsafe { &mut state.kept.recorded };
    // A retransmission passes the egress hook again, and a send that would have blocked comes again.
    if (sent.seq.wrapping_sub(recorded.next_seq) as i32) < 0 {
        return;
    }
    recorded.next_seq = sent.seq.wrapping_add(sent.len);
    let offset = sent.seq.wrapping_sub(recorded.first_seq);
    let len = if sent.len < state.head_left { sent.len } else { state.head_left };
    let is_whole = Maybe::new(sent.len >= 4 && ends_head(ctx.last()));
    state.head_left = if is_whole.is() { 0 } else { state.head_left - len };
    ring::payload(ctx, state, tuple, offset, sent.len, bounded(len));
}

/// 1 to `HEAD_MAX`, in a form whose bounds the verifier sees.
#[inline(always)]
pub fn bounded(len: u32) -> u32 {
    (len.wrapping_sub(1) & (HEAD_MAX as u32 - 1)) + 1
}

/// Do these bytes begin a TLS handshake? <https://www.rfc-editor.org/rfc/rfc8446#section-5.1>
#[inline(always)]
fn is_tls(first: u64) -> bool {
    first & 0xffff == u64::from_le_bytes([0x16, 3, 0, 0, 0, 0, 0, 0])
}
