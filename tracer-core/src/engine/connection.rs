//! One app connection to a proxy: the app's leg, the sidecar's reply leg, and the requests that wait for an answer.

use std::{collections::VecDeque, net::SocketAddr, ops::Range};

use bytes::BytesMut;
use compact_str::CompactString;
use smallvec::SmallVec;
use tracer_ebpf::HEAD_MAX;

use super::{
    leg_bytes::LegBytes,
    pending_request::{INDEX_BYTES, PendingRequest},
    tenants::Tenant,
    upstream_sockets::ClaimBasis,
};
use crate::{
    event::{Event, Interception, Task},
    head::{self, Form, Progress, ReplyHead, Request},
    mesh_profile::{InterceptorKind, MeshProfile},
};

/// An app's connection that has carried a request to a proxy, or the beginning of one.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact")]
pub(super) struct Connection {
    /// The app's flow.
    pub(super) flow: u64,
    /// Unique among all connections, unlike the flow, under which a connection may be added again.
    pub(super) serial: u64,
    /// The tenant to which its memory is charged.
    pub(super) tenant: Tenant,
    /// How many bytes of memory are charged for it; see [`Self::bytes`].
    pub(super) charged: usize,
    /// The app's network namespace. 0: unknown.
    pub(super) netns: u64,
    /// The app's own address.
    pub(super) local: SocketAddr,
    /// The address the app dialed.
    pub(super) remote: SocketAddr,
    /// When the app dialed it. `None`: before the probes were attached.
    pub(super) opened: Option<u64>,
    /// The time of its first event.
    first_seen: u64,
    /// The app's task.
    pub(super) task: Option<Task>,
    /// The cgroup of the app's socket, where the task was not seen. 0: unknown.
    pub(super) cgroup: u64,
    /// The sidecar that accepted it. The table sets it, which counts connections by it.
    pub(super) sidecar: Option<Interception>,
    /// The sidecar's task that accepted it. `None`: the reply leg was not seen yet.
    pub(super) acceptor: Option<Task>,
    /// When the sidecar accepted it. `None`: not seen.
    pub(super) accepted: Option<u64>,
    /// The socket with which the sidecar accepted it. `None`: not known yet.
    pub(super) reply: Option<u64>,
    /// An event of that socket was seen.
    pub(super) reply_seen: bool,
    /// The socket that the sidecar dialed for it, if the kernel side named one; see [`Event::link`].
    pub(super) linked_upstream: Option<u64>,
    /// The sidecar has received bytes meanwhile on a connection that it shares between sessions.
    pub(super) shared_upstream: bool,
    /// See [`Event::set_up`].
    pub(super) set_up: Option<bool>,
    /// The requests without an answer, oldest first.
    pub(super) pending: VecDeque<PendingRequest>,
    /// The upstream socket that carries this connection's bytes unchanged.
    pub(super) tunnel: Option<u64>,
    /// The evidence for `tunnel`.
    pub(super) tunnel_basis: Option<ClaimBasis>,
    /// All upstream sockets that this connection has claimed.
    pub(super) upstreams: SmallVec<[u64; 2]>,
    /// How many requests were answered.
    pub(super) answered: u32,
    /// A CONNECT was granted: what follows is tunnel payload.
    pub(super) opaque: bool,
    /// The app has closed its side.
    pub(super) app_closed: bool,
    /// When the app closed its side while requests waited.
    pub(super) gave_up: Option<u64>,
    /// A request came while [`MAX_PENDING`] others waited. Neither it nor any later one is tracked: their answers could
    /// not be told apart.
    overflowed: bool,
    /// The first bytes that the app sent, to compare with what went upstream. At most [`HEAD_MAX`].
    pub(super) app_bytes: Vec<u8>,
    /// The request head that is being reassembled.
    head: LegBytes,
    /// The answer that is being reassembled.
    replied: LegBytes,
    /// What the pending requests take, in bytes.
    pending_bytes: usize,
}

/// The most requests of a connection that wait for an answer. Clients that pipeline at all send a few.
const MAX_PENDING: usize = 64;

/// How many requests some bytes added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    /// Those that wait for an answer now.
    pub(super) tracked: usize,
    /// Those for which there was no room.
    pub(super) untracked: u64,
}

impl Connection {
    /// A connection whose first event is `event`, one of the app's leg.
    pub(super) fn new(event: &Event, serial: u64) -> Self {
        Self {
            flow: event.flow,
            serial,
            tenant: Tenant::of(event),
            charged: 0,
            netns: event.netns,
            local: event.local,
            remote: event.remote,
            opened: event.opened,
            first_seen: event.time,
            task: event.task.clone(),
            cgroup: event.cgroup,
            sidecar: None,
            acceptor: None,
            accepted: None,
            reply: event.link,
            reply_seen: false,
            linked_upstream: None,
            shared_upstream: false,
            set_up: None,
            pending: VecDeque::new(),
            tunnel: None,
            tunnel_basis: None,
            upstreams: SmallVec::new(),
            answered: 0,
            opaque: false,
            app_closed: false,
            gave_up: None,
            app_bytes: Vec::new(),
            overflowed: false,
            head: LegBytes::default(),
            replied: LegBytes::default(),
            pending_bytes: 0,
        }
    }

    /// A connection that no process accepted, and the request that the app could not send. `None`: the redirect was not
    /// seen.
    pub(super) fn refused(event: &Event) -> Option<(Self, PendingRequest)> {
        event.sidecar?;
        let connection = Self { sidecar: event.sidecar, ..Self::new(event, 0) };
        let request = Request {
            form: Form::Connect,
            authority: CompactString::default(),
            http_version: CompactString::default(),
            user_agent: None,
        };
        Some((connection, PendingRequest::new(request, true, event.time)))
    }

    /// The sidecar's network namespace and the app's address as the sidecar sees it, by which its accepted socket is
    /// found. `None`: no sidecar.
    pub(super) fn peer(&self) -> Option<(u64, SocketAddr)> {
        let sidecar = self.sidecar?;
        let port = sidecar.client_port.unwrap_or(self.local.port());
        Some((sidecar.netns, SocketAddr::new(self.local.ip(), port)))
    }

    /// When the sidecar accepted it, else when the app dialed it. 0: neither was seen.
    pub(super) fn begun(&self) -> u64 {
        self.accepted.or(self.opened).unwrap_or(0)
    }

    /// When the evidence begins that concerns it.
    pub(super) fn seen_since(&self) -> u64 {
        self.accepted.or(self.opened).unwrap_or(self.first_seen)
    }

    /// The kind of interceptor that accepted it, by the name of the accepting thread. `None`: no interceptor did.
    pub(super) fn interceptor(&self) -> Option<InterceptorKind> {
        self.sidecar?;
        let named = self.acceptor.as_ref().map(|task| MeshProfile::kind_of_thread(&task.comm));
        Some(named.unwrap_or_default())
    }

    /// Whether the sidecar kept the connection beyond the callback in which it built its filters. `None`: not known. Only
    /// Envoy's `TCP_NODELAY` tells that, as it sets the option at the end of that callback, unless a filter has closed the
    /// connection: <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/listener_manager/active_tcp_listener.cc>
    pub(super) fn was_kept(&self) -> Option<bool> {
        self.set_up.filter(|_| self.interceptor() == Some(InterceptorKind::Sidecar))
    }

    /// Takes bytes that the app sent and returns which requests they added.
    pub(super) fn app_sent(&mut self, event: &Event, offset: u32, total: u32, data: BytesMut) -> Added {
        let mut added = Added::default();
        if self.opaque {
            return added;
        }
        if self.overflowed {
            added.untracked = 1;
            return added;
        }
        let room = HEAD_MAX.saturating_sub(self.app_bytes.len());
        self.app_bytes.extend_from_slice(&data[..data.len().min(room)]);
        if !self.head.accepts(offset) {
            // Behind a gap, the head that was begun is never completed.
            self.head.clear();
            if let Some(request) = self.pending.back_mut() {
                request.complete = true;
            }
        }
        self.head.append(offset, total, data);
        loop {
            // The request whose headers are still coming is the last pending one.
            let begun = self.pending.back_mut().filter(|request| !request.complete);
            match head::request(self.head.as_slice()) {
                Progress::Other => {
                    self.head.clear();
                    return added;
                }
                Progress::Incomplete => return added,
                Progress::Begun(request) => {
                    // The kernel captures no more of a head than this.
                    let complete = self.head.is_full();
                    if begun.is_some() {
                        self.update_request(request, complete);
                    } else {
                        self.push_request(event, request, complete, &mut added);
                    }
                    return added;
                }
                Progress::Complete(request, length) => {
                    if begun.is_some() {
                        self.update_request(request, true);
                    } else {
                        self.push_request(event, request, true, &mut added);
                    }
                    if self.overflowed {
                        return added;
                    }
                    // Another request may be pipelined behind it.
                    self.head.consume(length);
                }
            }
        }
    }

    /// More of the latest request's head has come.
    fn update_request(&mut self, request: Request, complete: bool) {
        if let Some(pending) = self.pending.back_mut() {
            let before = pending.bytes();
            pending.request = request;
            pending.complete = complete;
            self.pending_bytes = self.pending_bytes + pending.bytes() - before;
        }
    }

    /// Adds a request, if there is room for one more.
    fn push_request(&mut self, event: &Event, request: Request, complete: bool, added: &mut Added) {
        if self.pending.len() >= MAX_PENDING {
            self.overflowed = true;
            self.head.clear();
            added.untracked += 1;
            return;
        }
        let pending = PendingRequest::new(request, complete, event.time);
        self.pending_bytes += pending.bytes();
        self.pending.push_back(pending);
        added.tracked += 1;
    }

    /// Where the requests stand whose deadline has this ticket: one, or, if none has it, those without a ticket.
    pub(super) fn waiting_with(&self, ticket: u64) -> Range<usize> {
        match self.pending.binary_search_by_key(&Some(ticket), |request| request.ticket) {
            Ok(nth) => nth..nth + 1,
            Err(_) => 0..self.pending.partition_point(|request| request.ticket.is_none()),
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let legs = self.head.as_slice().len() + self.replied.as_slice().len();
        size_of::<Self>() + INDEX_BYTES + self.app_bytes.capacity() + legs + self.pending_bytes
    }

    /// Gives up an upstream socket that turned out to belong to another connection.
    pub(super) fn release(&mut self, upstream: u64) {
        self.upstreams.retain(|other| *other != upstream);
        if self.tunnel == Some(upstream) {
            self.tunnel = None;
            self.tunnel_basis = None;
        }
        for request in &mut self.pending {
            request.rewritten = request.rewritten.filter(|&other| other != upstream);
        }
    }

    /// Whether the sidecar was seen to dial the tunnel for this connection, so that it cannot be another's.
    pub(super) fn is_linked(&self) -> bool {
        self.tunnel_basis == Some(ClaimBasis::Link)
    }

    /// Whether it has carried no request and no beginning of one.
    pub(super) fn is_idle(&self) -> bool {
        self.is_settled() && self.answered == 0
    }

    /// Whether no request waits for an answer or is still coming.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.head.is_empty()
    }

    /// Turns the connection into a tunnel: a CONNECT was granted.
    pub(super) fn enter_tunnel(&mut self) {
        self.opaque = true;
        self.app_bytes = Vec::new();
        self.head.clear();
    }

    /// Takes bytes that the sidecar sent to the app.
    pub(super) fn sidecar_sent(&mut self, offset: u32, total: u32, data: BytesMut) {
        let begins_reply = data.starts_with(b"HTTP/1.");
        if self.replied.is_empty() && self.answered > 0 && !begins_reply {
            return; // the rest of an earlier answer's body
        }
        if begins_reply && !self.replied.accepts(offset) {
            self.replied.clear();
        }
        self.replied.append(offset, total, data);
    }

    /// The answer to the oldest request. An incomplete head counts only if `at_last`: no more of it will come.
    pub(super) fn answer(&self, at_last: bool) -> Option<ReplyHead> {
        match head::reply(self.replied.as_slice()) {
            Progress::Other | Progress::Incomplete => None,
            Progress::Begun(reply) => (at_last || self.replied.is_full()).then_some(reply),
            Progress::Complete(reply, _) => Some(reply),
        }
    }

    /// Removes the oldest request and its answer's bytes.
    pub(super) fn settle(&mut self) {
        self.replied.clear();
        self.answered += 1;
        if let Some(settled) = self.pending.pop_front() {
            self.pending_bytes -= settled.bytes();
        }
        if self.pending.is_empty() {
            self.pending = VecDeque::new(); // a long-lived tunnel needs no room for requests
        }
    }
}
