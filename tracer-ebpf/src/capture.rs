//! The core that every shell calls: what a dial, an accept, sent bytes and an end mean for the flow they belong to,
//! and which of them become records. It knows sockets and first bytes; it makes no verdict.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use tracer_ebpf::{
    HEAD_MAX, Loss, Peer, Role, Settings,
    opening::{concerns_us, ends_head, is_interim},
    record::tcp,
};

use crate::{
    maps::{ACCEPTED, Accepted, FLOW_LATE, FLOW_RECORDED, FLOW_SENT, FLOWS, Flow, SETTINGS, WATCHED},
    ring,
};

/// A flow that has sent or received this many bytes (as a power of two) is past its first bytes: nothing more of it
/// is looked at. 64 KiB hold a NTLM or Kerberos exchange of several CONNECTs, and the bodies of their 407s.
const FIRST_BYTES_SHIFT: u32 = 16;

/// The exit that nearly all traffic takes: two counters of the socket, no look-up.
#[inline(always)]
pub fn is_past_first_bytes(sent: u64, received: u64) -> bool {
    (sent | received) >> FIRST_BYTES_SHIFT != 0
}

/// A socket's two ends, as the socket sees them, and the sidecar that accepted it, where that is known.
pub struct Tuple {
    pub local_addr: [u8; 16],
    pub remote_addr: [u8; 16],
    pub local_port: u16,
    pub remote_port: u16,
    /// The local port as the peer sees it, where the hook can tell; else the same.
    pub wire_port: u16,
    /// The port it was redirected to; 0: not redirected, or not known yet.
    pub sidecar_port: u16,
    pub sidecar_netns: u64,
}

/// Who dialled or accepted.
pub struct Owner {
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub cgroup: u64,
    pub comm: [u8; 16],
}

/// What a send hook can say of its payload. One implementation per flavour of hook.
pub trait Context {
    /// The first bytes, little-endian, at most eight; `None` where they cannot be read.
    fn first(&self) -> Option<u64>;
    /// The tenth byte; only called where there is one.
    fn tenth(&self) -> u8;
    /// The last four bytes; only called where there are as many.
    fn last(&self) -> [u8; 4];
    /// The user that owns the socket.
    fn uid(&self) -> u32;
    /// Copies the first `len` bytes, 1 to `HEAD_MAX`.
    ///
    /// # Safety
    /// `to` must be valid for writes of `HEAD_MAX` bytes.
    unsafe fn copy(&self, to: *mut [u8; HEAD_MAX], len: u32) -> bool;
}

/// One payload-bearing send.
pub struct Sent {
    pub flow: u64,
    pub tuple: Tuple,
    /// TCP sequence number of the first byte.
    pub seq: u32,
    /// Payload bytes.
    pub len: u32,
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn flow_of(role: Role, netns: u64, owner: &Owner, flags: u8) -> Flow {
    Flow {
        opened_ns: if flags & FLOW_LATE == 0 { now() } else { 0 },
        netns,
        cgroup: owner.cgroup,
        tgid: owner.tgid,
        tid: owner.tid,
        uid: owner.uid,
        first_seq: 0,
        next_seq: 0,
        head_left: 0,
        role: role as u8,
        flags,
        zero: [0; 6],
        comm: owner.comm,
    }
}

/// Keeps what is known of a flow.
#[inline(always)]
fn keep(flow: u64, state: &Flow) {
    if FLOWS.insert(flow, state, 0).is_err() {
        ring::lost(Loss::MapFull);
    }
}

/// A task dials `remote`. The source port is not chosen yet.
#[inline(always)]
pub fn dialed(flow: u64, netns: u64, owner: &Owner, remote_addr: [u8; 16], remote_port: u16) {
    let is_sidecar = SETTINGS.load().is_sidecar(owner.uid);
    let state = flow_of(if is_sidecar { Role::Upstream } else { Role::App }, netns, owner, 0);
    keep(flow, &state);
    if is_sidecar {
        let tuple = Tuple {
            local_addr: [0; 16],
            remote_addr,
            local_port: 0,
            remote_port,
            wire_port: 0,
            sidecar_port: 0,
            sidecar_netns: 0,
        };
        ring::dial(flow, &state, &tuple);
    }
}

/// Is this the sidecar's own dial, whose end matters from the start?
#[inline(always)]
pub fn is_sidecars_dial(flow: u64) -> bool {
    // SAFETY: the value is only read; LRU reuse could at worst give another flow's role.
    unsafe { FLOWS.get(flow) }.is_some_and(|state| state.role == Role::Upstream as u8)
}

/// Does the sidecar accept on this port?
#[inline(always)]
pub fn is_sidecars_port(port: u16) -> bool {
    let settings = SETTINGS.load();
    settings.is_outbound(port) || settings.is_inbound(port)
}

/// The peer of a sidecar's accepted socket, as key. A connection from outside the pod comes from another namespace,
/// so there the namespace cannot be part of it.
#[inline(always)]
fn peer_key(settings: &Settings, sidecar_port: u16, netns: u64, addr: [u8; 16], port: u16) -> Peer {
    Peer::new(if settings.is_inbound(sidecar_port) { 0 } else { netns }, addr, port)
}

/// A connection to one of the sidecar's ports is established. This is before its peer can send a byte (but for TCP
/// fast open), so a request is known to be intercepted when it is seen.
#[inline(always)]
pub fn established(flow: u64, netns: u64, tuple: &Tuple) {
    let settings = SETTINGS.load();
    let nobody = Owner { tgid: 0, tid: 0, uid: tracer_ebpf::settings::NO_UID, cgroup: 0, comm: [0; 16] };
    keep(flow, &flow_of(Role::Reply, netns, &nobody, 0));
    let key = peer_key(&settings, tuple.local_port, netns, tuple.remote_addr, tuple.remote_port);
    let accepted = Accepted { netns, reply_left: 0, port: tuple.local_port, zero: 0 };
    if ACCEPTED.insert(key, accepted, 0).is_err() {
        ring::lost(Loss::MapFull);
    }
}

/// The sidecar took an established connection: now its owner is known, and when it began with it. Whatever this
/// thread dials for the connection, it dials later.
#[inline(always)]
pub fn accepted(flow: u64, owner: &Owner) {
    if let Some(state) = FLOWS.get_ptr_mut(flow) {
        // SAFETY: the value lives in the map; the socket is the caller's, and nobody else writes its owner.
        unsafe {
            if (*state).tgid == 0 {
                (*state).opened_ns = now();
                (*state).tgid = owner.tgid;
                (*state).tid = owner.tid;
                (*state).uid = owner.uid;
                (*state).cgroup = owner.cgroup;
                (*state).comm = owner.comm;
            }
        }
    }
}

/// A flow sent bytes.
#[inline(always)]
pub fn sent<C: Context>(ctx: &C, sent: &mut Sent) {
    let Some(first) = ctx.first() else {
        return ring::lost(Loss::PayloadUnreadable);
    };
    if is_sidecars_port(sent.tuple.local_port) {
        return replied(ctx, sent, first);
    }
    let opens = concerns_us(first, sent.len);
    let state = match FLOWS.get_ptr_mut(sent.flow) {
        Some(state) => state,
        None if opens => {
            // It was open before the programs were attached, or fell out of the map.
            let uid = ctx.uid();
            let role = if SETTINGS.load().is_sidecar(uid) { Role::Upstream } else { Role::App };
            keep(
                sent.flow,
                &flow_of(role, 0, &Owner { tgid: 0, tid: 0, uid, cgroup: 0, comm: [0; 16] }, FLOW_LATE),
            );
            match FLOWS.get_ptr_mut(sent.flow) {
                Some(state) => state,
                None => return,
            }
        }
        None => return,
    };
    // SAFETY: the value lives in the map; a flow's sends are serialised by its socket's lock, so nobody else writes.
    let state = unsafe { &mut *state };
    let is_upstream = state.role == Role::Upstream as u8;
    let is_first = state.flags & FLOW_SENT == 0;
    state.flags |= FLOW_SENT;
    if opens {
        state.head_left = HEAD_MAX as u32;
        if !is_upstream {
            await_reply(state.netns, &mut sent.tuple);
        }
    } else if is_first && (is_watched(state.netns) || (is_upstream && is_tls(first))) {
        // A sidecar that wraps a connection in TLS may say hello before its app has said what it wants.
        state.head_left = HEAD_MAX as u32;
        // Of an app's, too: what the sidecar passes on for it must not be taken for a session's.
        if !is_upstream {
            if find_sidecar(state.netns, &mut sent.tuple).is_none() {
                state.head_left = 0;
                return;
            }
            if sent.len < HEAD_MAX as u32 {
                state.head_left = sent.len;
            }
        }
    } else if state.head_left == 0 {
        return;
    } else if !is_upstream {
        find_sidecar(state.netns, &mut sent.tuple);
    }
    record(ctx, sent, state);
}

/// Copies a payload of a flow that is being followed, unless it was copied before.
#[inline(always)]
fn record<C: Context>(ctx: &C, sent: &Sent, state: &mut Flow) {
    if state.flags & FLOW_RECORDED == 0 {
        state.flags |= FLOW_RECORDED;
        state.first_seq = sent.seq;
        state.next_seq = sent.seq;
    }
    // A retransmission passes the egress hook again.
    if (sent.seq.wrapping_sub(state.next_seq) as i32) < 0 {
        return;
    }
    state.next_seq = sent.seq.wrapping_add(sent.len);
    let len = if sent.len < state.head_left { sent.len } else { state.head_left };
    state.head_left -= len;
    if sent.len >= 4 && ends_head(ctx.last()) {
        state.head_left = 0;
    }
    ring::payload(
        ctx,
        sent.flow,
        state,
        &sent.tuple,
        sent.seq.wrapping_sub(state.first_seq),
        sent.len,
        bounded(len),
    );
}

/// 1 to `HEAD_MAX`, in a form whose bounds the verifier sees.
#[inline(always)]
fn bounded(len: u32) -> u32 {
    (len.wrapping_sub(1) & (HEAD_MAX as u32 - 1)) + 1
}

/// An app asked: its sidecar's reply is awaited from now on, and what the sidecar dials is watched.
#[inline(always)]
fn await_reply(netns: u64, tuple: &mut Tuple) {
    let settings = SETTINGS.load();
    if let Some(accepted) = find_sidecar(netns, tuple) {
        // SAFETY: the value lives in the map; a lost race costs at most the reply of a request that was pipelined.
        unsafe { (*accepted).reply_left = HEAD_MAX as u32 };
    } else if tuple.sidecar_port != 0 {
        // Redirected, but accepted before the programs were attached.
        let key = peer_key(&settings, tuple.sidecar_port, netns, tuple.local_addr, tuple.wire_port);
        let accepted = Accepted { netns, reply_left: HEAD_MAX as u32, port: tuple.sidecar_port, zero: 0 };
        if ACCEPTED.insert(key, accepted, 0).is_err() {
            ring::lost(Loss::MapFull);
        }
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
fn find_sidecar(netns: u64, tuple: &mut Tuple) -> Option<*mut Accepted> {
    let own = Peer::new(netns, tuple.local_addr, tuple.wire_port);
    let accepted = match ACCEPTED.get_ptr_mut(own) {
        Some(accepted) => accepted,
        None => ACCEPTED.get_ptr_mut(Peer { netns: 0, ..own })?,
    };
    // SAFETY: the value lives in the map; these fields are written once, when it is inserted.
    unsafe {
        tuple.sidecar_port = (*accepted).port;
        tuple.sidecar_netns = (*accepted).netns;
    }
    Some(accepted)
}

/// Do these bytes begin a TLS handshake? <https://www.rfc-editor.org/rfc/rfc8446#section-5.1>
#[inline(always)]
fn is_tls(first: u64) -> bool {
    first & 0xffff == u64::from_le_bytes([0x16, 3, 0, 0, 0, 0, 0, 0])
}

#[inline(always)]
fn is_watched(netns: u64) -> bool {
    // SAFETY: the value is only read, in one load.
    unsafe { WATCHED.get(netns) }.is_some_and(|until| now() < *until)
}

/// The sidecar sent bytes on a connection that it accepted.
#[inline(always)]
fn replied<C: Context>(ctx: &C, sent: &mut Sent, first: u64) {
    let settings = SETTINGS.load();
    let state = match FLOWS.get_ptr_mut(sent.flow) {
        Some(state) => state,
        None => {
            // Only a reply that somebody waits for is worth an entry.
            let key =
                peer_key(&settings, sent.tuple.local_port, 0, sent.tuple.remote_addr, sent.tuple.remote_port);
            if ACCEPTED.get_ptr(key).is_none() {
                return;
            }
            let nobody = Owner { tgid: 0, tid: 0, uid: ctx.uid(), cgroup: 0, comm: [0; 16] };
            keep(sent.flow, &flow_of(Role::Reply, 0, &nobody, FLOW_LATE));
            match FLOWS.get_ptr_mut(sent.flow) {
                Some(state) => state,
                None => return,
            }
        }
    };
    // SAFETY: the value lives in the map; a flow's sends are serialised by its socket's lock, so nobody else writes.
    let state = unsafe { &mut *state };
    state.flags |= FLOW_SENT;
    let key = peer_key(
        &settings,
        sent.tuple.local_port,
        state.netns,
        sent.tuple.remote_addr,
        sent.tuple.remote_port,
    );
    let Some(accepted) = ACCEPTED.get_ptr_mut(key) else { return };
    // SAFETY: the value lives in the map; a lost race costs at most the reply of a request that was pipelined.
    let left = unsafe { (*accepted).reply_left };
    if left == 0 {
        return;
    }
    state.head_left = left;
    record(ctx, sent, state);
    // An interim reply ends its head, but the one that counts is still to come.
    let interim = sent.len > 9 && is_interim(first, ctx.tenth());
    let left = if interim { left } else { state.head_left };
    // SAFETY: as above.
    unsafe { (*accepted).reply_left = left };
}

/// A flow leaves one TCP state for another. Only what ends a flow of a session, or ends one of the sidecar's
/// flows in silence, makes a record.
#[inline(always)]
pub fn state_changed(flow: u64, tuple: &Tuple, from: u8, to: u8) {
    let is_open = from == tcp::SYN_SENT || from == tcp::ESTABLISHED || from == tcp::CLOSE_WAIT;
    let is_over = to == tcp::FIN_WAIT1 || to == tcp::LAST_ACK || to == tcp::CLOSE;
    if is_open && is_over {
        if let Some(state) = FLOWS.get_ptr(flow) {
            // SAFETY: the value lives in the map and is only read.
            let state = unsafe { &*state };
            if state.flags & (FLOW_RECORDED | FLOW_SENT) != FLOW_SENT {
                ring::end(flow, state, tuple, from, to);
            }
        }
    }
    if to == tcp::CLOSE {
        // Not there: it fell out, or was never of interest.
        let _ = FLOWS.remove(flow);
    }
}

/// An app's flow sent a FIN or an RST.
#[inline(always)]
pub fn app_closed(flow: u64, tuple: &mut Tuple, reset: bool) {
    if let Some(state) = FLOWS.get_ptr(flow) {
        // SAFETY: the value lives in the map and is only read.
        let state = unsafe { &*state };
        if state.role == Role::App as u8 && state.flags & FLOW_RECORDED != 0 {
            find_sidecar(state.netns, tuple);
            ring::end(flow, state, tuple, tcp::ESTABLISHED, if reset { tcp::CLOSE } else { tcp::FIN_WAIT1 });
        }
    }
}
