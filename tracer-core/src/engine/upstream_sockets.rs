//! The sockets that sidecars dialed: what each carried, which session claimed it, and how to find unclaimed ones.

use std::{collections::BTreeSet, net::SocketAddr};

use foldhash::HashMap;

use super::{
    beyond::AnswerBeyond,
    expiry::{DeadlineQueue, TtlMap},
    failures::{Endpoints, Failure, FailureStage, Failures},
    leg_bytes::LegBytes,
    namespace_index::NamespaceIndex,
    tenants::{Tenant, Tenants},
};
use crate::{
    event::{End, Event, Task},
    head,
};

/// A socket that a sidecar dialed.
#[derive(Clone, Debug)]
pub(super) struct UpstreamSocket {
    /// The address dialed.
    pub(super) remote: SocketAddr,
    /// The sidecar's network namespace. 0: unknown.
    pub(super) netns: u64,
    /// The sidecar's thread. `None`: the dial was not seen.
    pub(super) task: Option<Task>,
    /// When it was dialed. `None`: not seen.
    pub(super) dialed: Option<u64>,
    /// The accepted socket that the dialing thread had just handled; see [`Event::link`].
    pub(super) link: Option<u64>,
    /// It cannot have been dialed for that one. Then it was dialed for an HTTP request, on another connection.
    pub(super) has_wrong_link: bool,
    /// The first bytes it sent.
    pub(super) bytes: LegBytes,
    /// It sent a TLS record behind the ClientHello.
    pub(super) tls_established: bool,
    /// When it sent the first byte.
    pub(super) sent: Option<u64>,
    /// Its peer had sent something before it ended.
    pub(super) answered: bool,
    /// How it ended.
    pub(super) ended: Option<End>,
    /// The latest answer on it, if the interceptor of the proxy's pod made that.
    pub(super) beyond: Option<Box<AnswerBeyond>>,
    /// Its own address, once it has sent a request. The key in [`UpstreamSockets::by_address`].
    local: Option<SocketAddr>,
    /// The key of the request that it sent; see [`super::pending_request::request_key`].
    request_key: Option<u64>,
    /// Its ticket in [`UpstreamSockets::unclaimed`].
    ticket: u64,
    /// The tenant to which it is charged while it is unclaimed.
    tenant: Tenant,
    /// The session that it belongs to.
    pub(super) claim: Option<Claim>,
}

impl UpstreamSocket {
    /// Records that the socket sends `data` at `offset`. Behind the ClientHello a client sends TLS records other than an
    /// alert only to a peer that speaks TLS too: <https://www.rfc-editor.org/rfc/rfc8446#section-5.1> (20:
    /// `change_cipher_spec`, 22: `handshake`, 23: `application_data`).
    pub(super) fn note_tls(&mut self, offset: u32, data: &[u8]) {
        let began = matches!(self.bytes.as_slice(), [0x16, 3, ..]);
        self.tls_established |= began && offset > 0 && matches!(data, [20 | 22 | 23, 3, ..]);
    }
}

/// A socket's membership in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The app's flow.
    pub(super) by: u64,
    /// The evidence for it.
    pub(super) basis: ClaimBasis,
}

/// The evidence for a claim, weakest first. A stronger claim replaces a weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimBasis {
    /// When and where the socket was dialed.
    TimeAndAddress,
    /// The bytes it carried, which other sessions may have sent as well.
    Bytes,
    /// The connection it was dialed for, and that connection's bytes on it.
    Link,
}

/// The sockets that the sidecars of this node dialed lately.
#[derive(Default)]
pub(super) struct UpstreamSockets {
    /// Boxed, so that room for more sockets takes little.
    sockets: HashMap<u64, Box<UpstreamSocket>>,
    /// The latest failures.
    failures: Failures,
    /// Which addresses sidecars dial for those that apps dialed.
    pub(super) endpoints: Endpoints,
    /// The latest flow that sent a request, by its own address.
    by_address: HashMap<SocketAddr, u64>,
    /// Unclaimed flows, by address dialed.
    by_remote: NamespaceIndex<SocketAddr>,
    /// Unclaimed flows: thread, when it was dialed (0: not seen), flow.
    by_thread: BTreeSet<(u32, u64, u64)>,
    /// Unclaimed flows, by the request they carry.
    by_request: NamespaceIndex<u64>,
    /// Unclaimed flows, in the order in which they were first seen.
    unclaimed: DeadlineQueue,
    /// Unclaimed flows by tenant, oldest first.
    tenants: Tenants,
    /// When an unclaimed socket was last dropped for lack of room, by network namespace.
    crowded_out: TtlMap<u64, u64>,
}

/// How many unclaimed sockets of each kind are looked at for one session. A search must not take longer the more sockets a
/// pod has.
const MAX_CANDIDATES: usize = 1_024;

impl UpstreamSockets {
    /// The socket of `event`, added if it is new.
    pub(super) fn entry(&mut self, event: &Event) -> &mut UpstreamSocket {
        let Self { sockets, by_remote, by_thread, unclaimed, tenants, .. } = self;
        let socket = sockets.entry(event.flow).or_insert_with(|| {
            let (tenant, ticket) = (Tenant::of(event), unclaimed.push(event.time, event.flow));
            tenants.add(tenant, ticket, event.flow, 1);
            by_remote.insert(event.remote, event.netns, ticket, event.flow);
            by_thread.extend(thread_key(event.task.as_ref(), event.opened, event.flow));
            Box::new(UpstreamSocket {
                remote: event.remote,
                netns: event.netns,
                task: event.task.clone(),
                dialed: event.opened,
                link: None,
                has_wrong_link: false,
                bytes: LegBytes::default(),
                tls_established: false,
                sent: None,
                answered: false,
                ended: None,
                beyond: None,
                local: None,
                request_key: None,
                ticket,
                tenant,
                claim: None,
            })
        });
        socket.link = socket.link.or(event.link);
        socket.answered |= event.answered;
        socket
    }

    /// The socket of a flow.
    pub(super) fn get(&self, flow: u64) -> Option<&UpstreamSocket> {
        self.sockets.get(&flow).map(Box::as_ref)
    }

    /// The socket of a flow, mutable.
    pub(super) fn get_mut(&mut self, flow: u64) -> Option<&mut UpstreamSocket> {
        self.sockets.get_mut(&flow).map(Box::as_mut)
    }

    /// Records the own address of a socket that sent a request.
    pub(super) fn set_address(&mut self, flow: u64, local: SocketAddr) {
        let Some(socket) = self.sockets.get_mut(&flow) else { return };
        if socket.local.is_none() && head::request(socket.bytes.as_slice()).head().is_some() {
            socket.local = Some(local);
            self.by_address.insert(local, flow);
        }
    }

    /// The latest socket with this own address that sent a request.
    pub(super) fn at_address(&self, local: SocketAddr) -> Option<(u64, &UpstreamSocket)> {
        let flow = *self.by_address.get(&local)?;
        Some((flow, self.get(flow)?))
    }

    /// Records that an unclaimed socket carries the request with this key.
    pub(super) fn set_request(&mut self, flow: u64, key: u64) {
        let Some(socket) = self.sockets.get_mut(&flow) else { return };
        if socket.request_key.is_none() && socket.claim.is_none() {
            socket.request_key = Some(key);
            self.by_request.insert(key, socket.netns, socket.ticket, flow);
        }
    }

    /// Unclaimed sockets of this network namespace that were dialed to `remote`, or by `thread` since `begun` (or at an
    /// unknown time), or that carry the request with this key. A socket may come more than once. Oldest of each kind first.
    pub(super) fn candidates(
        &self,
        netns: u64,
        remote: SocketAddr,
        thread: Option<u32>,
        begun: u64,
        request_key: u64,
    ) -> impl Iterator<Item = (u64, &UpstreamSocket)> {
        let to_remote = self.by_remote.find(remote, netns).take(MAX_CANDIDATES);
        let dialed_between = |tid, from, to| self.by_thread.range((tid, from, 0)..=(tid, to, u64::MAX));
        let by_thread =
            thread.map(|tid| dialed_between(tid, 0, 0).chain(dialed_between(tid, begun.max(1), u64::MAX)));
        let by_thread = by_thread.into_iter().flatten().map(|(.., flow)| *flow).take(MAX_CANDIDATES);
        let by_request = self.by_request.find(request_key, netns).take(MAX_CANDIDATES);
        to_remote.chain(by_thread).chain(by_request).filter_map(|flow| Some((flow, self.get(flow)?)))
    }

    /// Assigns a socket to a session. It is no longer among the [candidates](Self::candidates).
    pub(super) fn claim(&mut self, flow: u64, claim: Claim) {
        self.remove_from_candidates(flow);
        if let Some(socket) = self.sockets.get_mut(&flow) {
            socket.claim = Some(claim);
        }
    }

    /// Makes a claimed socket a candidate again and returns the claim.
    pub(super) fn unclaim(&mut self, flow: u64) -> Option<Claim> {
        let socket = self.sockets.get_mut(&flow)?;
        let claim = socket.claim.take()?;
        socket.ticket = self.unclaimed.push(socket.dialed.unwrap_or(0), flow);
        self.tenants.add(socket.tenant, socket.ticket, flow, 1);
        self.by_remote.insert(socket.remote, socket.netns, socket.ticket, flow);
        self.by_thread.extend(thread_key(socket.task.as_ref(), socket.dialed, flow));
        Some(claim)
    }

    /// Records how a socket ended. A failure before it carried a request may explain the end of other sessions too.
    /// `dialed_for`: the address that the app dialed for whose connection it was, if known.
    pub(super) fn set_ended(&mut self, flow: u64, time: u64, end: End, dialed_for: Option<SocketAddr>) {
        let Some(socket) = self.sockets.get_mut(&flow) else { return };
        socket.ended = Some(end);
        let stage = match (end, socket.bytes.as_slice()) {
            (End::DialFailed, _) => FailureStage::Dial,
            (End::ClosedByPeer | End::Reset, []) => FailureStage::Open,
            (End::ClosedByPeer | End::Reset, [0x16, 3, ..]) if !socket.tls_established => FailureStage::Tls,
            (End::ClosedHere | End::ClosedByPeer | End::Reset, _) => return,
        };
        let (remote, link) = (socket.remote, socket.link);
        let failure = Failure { time, flow, remote, stage, link, dialed_for };
        self.failures.push(socket.netns, failure);
    }

    /// The failed dials of sidecars.
    pub(super) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Records which address the app had dialed whose connection was accepted with this socket.
    pub(super) fn note_dialed(&mut self, reply: u64, dialed: SocketAddr, time: u64) {
        self.failures.set_dialed(reply, dialed, time);
    }

    /// Records which dial was made for an accepted socket, and whether that has ended.
    pub(super) fn note_accepted(&mut self, reply: u64, dialed: Option<u64>, has_ended: bool, time: u64) {
        if let Some(dialed) = dialed {
            self.failures.set_link(dialed, reply, time);
        }
        if has_ended {
            self.failures.set_ended(reply, time);
        }
    }

    /// Forgets a socket.
    pub(super) fn remove(&mut self, flow: u64) {
        self.remove_from_candidates(flow);
        let Some(socket) = self.sockets.remove(&flow) else { return };
        if let Some(local) = socket.local.filter(|local| self.by_address.get(local) == Some(&flow)) {
            self.by_address.remove(&local);
        }
    }

    fn remove_from_candidates(&mut self, flow: u64) {
        let Some(socket) = self.sockets.get(&flow) else { return };
        if socket.claim.is_some() {
            return; // removed when it was claimed
        }
        self.unclaimed.cancel(socket.ticket);
        self.tenants.remove(socket.tenant, socket.ticket, 1);
        self.by_remote.remove(socket.remote, socket.netns, socket.ticket);
        if let Some(key) = thread_key(socket.task.as_ref(), socket.dialed, flow) {
            self.by_thread.remove(&key);
        }
        if let Some(key) = &socket.request_key {
            self.by_request.remove(*key, socket.netns, socket.ticket);
        }
    }

    /// Forgets unclaimed sockets first seen before `asked_before`, and while more than `capacity` sockets are known, the
    /// oldest unclaimed one of the tenant that has most. A claimed socket stays as long as its session. Endpoints are
    /// forgotten from before `kept_after`.
    pub(super) fn expire(&mut self, time: u64, asked_before: u64, kept_after: u64, capacity: usize) {
        self.endpoints.expire(kept_after, capacity);
        for netns in self.failures.expire(asked_before, capacity) {
            self.crowded_out.insert(time, netns, time);
        }
        self.crowded_out.expire(asked_before, capacity);
        while let Some((_, flow)) = self.unclaimed.pop(asked_before.saturating_sub(1)) {
            self.remove(flow);
        }
        while self.sockets.len() > capacity {
            let Some(flow) = self.tenants.first_to_go() else { break };
            if let Some(socket) = self.sockets.get(&flow) {
                self.crowded_out.insert(time, socket.netns, time);
            }
            self.remove(flow);
        }
    }

    /// Whether a socket of this network namespace was dropped for lack of room since then. That a session has no socket then
    /// says nothing.
    pub(super) fn crowded_out_since(&self, netns: u64, since: u64) -> bool {
        self.crowded_out.get(&netns).is_some_and(|at| *at >= since)
    }

    /// How many sockets are known.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }
}

fn thread_key(task: Option<&Task>, dialed: Option<u64>, flow: u64) -> Option<(u32, u64, u64)> {
    Some((task?.tid, dialed.unwrap_or(0), flow))
}
