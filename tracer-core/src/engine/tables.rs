//! The engine's state: connections, upstream sockets, and the indices by which one finds the other. It keeps them
//! consistent and bounded.

mod target;

use std::net::SocketAddr;

use foldhash::HashMap;

pub(super) use self::target::Target;
use super::{
    Stats,
    connection::Connection,
    connections::{Connections, Peer},
    expiry::{DeadlineQueue, TtlMap},
    request_index::RequestIndex,
    tunnels::Tunnels,
    upstream_sockets::{Claim, ClaimBasis, UpstreamSockets},
};
use crate::{event::Event, verdict::Payload};

/// The most memory that connections may take, in bytes. An ordinary one takes 1 to 2 KiB.
const MAX_BYTES: usize = 80 << 20;

#[derive(Default)]
pub(super) struct Tables {
    connections: Connections,
    pub(super) requests: RequestIndex,
    /// The flows with requests that wait for an answer, in the order of the requests.
    deadlines: DeadlineQueue,
    /// The flows whose app closed while requests waited, in the order of their ends.
    pub(super) given_up: DeadlineQueue,
    pub(super) tunnels: Tunnels,
    /// Ends of sidecars' accepted sockets whose app has not sent anything yet.
    early_ends: TtlMap<Peer, Event>,
    pub(super) upstreams: UpstreamSockets,
    /// The addresses to which apps have sent requests.
    proxies: TtlMap<SocketAddr, ()>,
    /// Those to which they did lately, by the sidecar's network namespace.
    dialed_lately: TtlMap<(u64, SocketAddr), ()>,
    /// Upstream sockets that were claimed before they had carried a byte, by the address dialed.
    silent: HashMap<SocketAddr, Vec<u64>>,
    dropped: u64,
    /// The requests that were not tracked.
    pub(super) untracked: u64,
}

impl Tables {
    pub(super) fn stats(&self) -> Stats {
        Stats {
            connections: self.len(),
            pending: self.connections.iter().map(|connection| connection.pending.len()).sum(),
            upstreams: self.upstreams.len() + self.tunnels.len(),
            dropped: self.dropped,
            untracked: self.untracked,
            bytes: self.connections.bytes(),
        }
    }

    /// How many connections are known, tunnels included.
    fn len(&self) -> usize {
        self.connections.len() + self.tunnels.len()
    }

    pub(super) fn connection(&self, flow: u64) -> Option<&Connection> {
        self.connections.get(flow)
    }

    pub(super) fn connection_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.connections.get_mut(flow)
    }

    /// The connection of an app's event, added if it is new.
    pub(super) fn connection_or_new(&mut self, event: &Event) -> Option<&mut Connection> {
        let (connection, is_new) = self.connections.get_or_new(event)?;
        if is_new {
            self.proxies.insert(event.time, event.remote, ());
            if let Some(sidecar) = event.sidecar {
                self.dialed_lately.insert(event.time, (sidecar.netns, event.remote), ());
            }
        }
        Some(connection)
    }

    /// The connection that the sidecar accepted with this socket, if its app's leg or the socket itself named it.
    pub(super) fn by_reply(&self, reply: u64) -> Option<&Connection> {
        self.connections.by_reply(reply)
    }

    /// The app's flow that an event of a sidecar's accepted socket belongs to.
    pub(super) fn answered_by(&mut self, event: &Event) -> Option<u64> {
        let flow = self.connections.answered_by(event)?;
        self.link_upstream(event);
        Some(flow)
    }

    /// Records on an upstream socket for which accepted socket it was dialed.
    fn link_upstream(&mut self, event: &Event) {
        if let Some(upstream) = event.link.and_then(|dialed| self.upstreams.get_mut(dialed)) {
            upstream.link = Some(event.flow);
        }
    }

    /// Starts the deadlines of a connection's `added` latest requests. With 0, its latest request waits on.
    pub(super) fn wait(&mut self, flow: u64, time: u64, added: usize) {
        let Some(connection) = self.connections.get_mut(flow) else { return };
        if added == 0 {
            self.deadlines.push(time, flow);
        }
        let pending = &mut connection.pending;
        let new = pending.len().saturating_sub(added)..;
        for request in pending.range_mut(new) {
            request.ticket = Some(self.deadlines.push(time, flow));
        }
        self.requests.update(connection);
    }

    /// The ticket and the connection of the next request made by `time`. Each request is returned once.
    pub(super) fn pop_waiting(&mut self, time: u64) -> Option<(u64, u64)> {
        self.deadlines.pop(time)
    }

    /// Charges a connection for the memory that it takes now.
    pub(super) fn charge(&mut self, flow: u64) {
        self.connections.charge(flow);
    }

    /// Cancels the deadline of a connection's oldest request.
    pub(super) fn stop_waiting(&mut self, flow: u64) {
        let Some(connection) = self.connections.get(flow) else { return };
        let Some(request) = connection.pending.front() else { return };
        if let Some(ticket) = request.ticket {
            self.deadlines.cancel(ticket);
        }
        self.requests.remove(connection, request);
    }

    /// Claims an upstream socket that carries the connection's bytes unchanged.
    pub(super) fn claim_tunnel(&mut self, upstream: u64, flow: u64, basis: ClaimBasis) {
        self.assign(upstream, flow, basis);
        if let Some(time) = self.upstreams.get(upstream).and_then(|upstream| upstream.sent) {
            self.learn_endpoint(upstream, flow, time);
        }
        if let Some(connection) = self.connections.get_mut(flow) {
            connection.tunnel = Some(upstream);
            connection.tunnel_basis = Some(basis);
            self.requests.update(connection);
        }
    }

    /// Handles a granted CONNECT. A connection with all sockets known becomes one of the [`Tunnels`].
    pub(super) fn grant(&mut self, flow: u64, time: u64) {
        let Some(connection) = self.connection_mut(flow) else { return };
        connection.enter_tunnel();
        if let (Some(reply), Some(upstream)) = (connection.reply, connection.tunnel)
            && connection.is_linked()
            && connection.pending.is_empty()
            && connection.upstreams.as_slice() == [upstream]
        {
            self.remove_connection(flow);
            self.tunnels.add(time, [flow, reply, upstream]);
        }
    }

    /// Claims an upstream socket that carries a rewritten form of the connection's request with this key.
    pub(super) fn claim_rewritten(&mut self, upstream: u64, flow: u64, request_key: u64) {
        self.assign(upstream, flow, ClaimBasis::Bytes);
        if let Some(connection) = self.connections.get_mut(flow) {
            if let Some(request) = connection.pending.iter_mut().find(|request| request.key == request_key) {
                request.rewritten = Some(upstream);
            }
            self.requests.update(connection);
        }
    }

    /// Claims an upstream socket for a connection. A connection that had claimed it loses it.
    pub(super) fn claim(&mut self, upstream: u64, flow: u64, basis: ClaimBasis) {
        self.assign(upstream, flow, basis);
        if let Some(connection) = self.connections.get_mut(flow) {
            self.requests.update(connection);
        }
    }

    fn assign(&mut self, upstream: u64, flow: u64, basis: ClaimBasis) {
        let before = self.upstreams.get(upstream).and_then(|upstream| upstream.claim);
        if let Some(other) = before.and_then(|claim| self.connections.get_mut(claim.by)) {
            other.release(upstream);
            if other.flow != flow {
                self.requests.update(other);
            }
        }
        self.upstreams.claim(upstream, Claim { by: flow, basis });
        if let Some(connection) = self.connections.get_mut(flow) {
            connection.upstreams.push(upstream);
        }
    }

    /// Whether a session may claim this socket: it is unclaimed, or its bytes say which session it belongs to. A failed
    /// socket may explain several sessions, but only one claims it.
    pub(super) fn may_be_claimed(&self, upstream: u64, payload: Payload) -> bool {
        let by_bytes = matches!(payload, Payload::SameBytes | Payload::RewrittenRequest);
        self.upstreams.get(upstream).is_some_and(|upstream| by_bytes || upstream.claim.is_none())
    }

    /// Claims a socket that has carried no byte yet; see [`Self::sent_payload`].
    pub(super) fn claim_silent(&mut self, upstream: u64, flow: u64) {
        self.claim(upstream, flow, ClaimBasis::TimeAndAddress);
        if let Some(socket) = self.upstreams.get(upstream) {
            self.silent.entry(socket.remote).or_default().push(upstream);
        }
    }

    /// Handles a socket's first bytes. If this socket was unclaimed but another silent one to the same address was
    /// claimed for its session, swap the claims.
    pub(super) fn sent_payload(&mut self, upstream: u64) {
        let Some(socket) = self.upstreams.get(upstream) else { return };
        let (remote, netns, is_unclaimed) = (socket.remote, socket.netns, socket.claim.is_none());
        let thread = socket.task.as_ref().map(|task| task.tid);
        let Some(silent) = self.silent.get_mut(&remote) else { return };
        if let Some(at) = silent.iter().position(|&other| other == upstream) {
            silent.swap_remove(at);
        } else if is_unclaimed {
            // Mostly one thread handles both sockets of a session; Envoy may balance connections between threads.
            let is_alike = |other: &u64, same_thread: bool| {
                self.upstreams.get(*other).is_some_and(|other| {
                    other.netns == netns
                        && (!same_thread || other.task.as_ref().map(|task| task.tid) == thread)
                })
            };
            let of_thread = silent.iter().find(|&other| is_alike(other, true));
            let Some(&other) = of_thread.or_else(|| silent.iter().find(|&other| is_alike(other, false)))
            else {
                return;
            };
            silent.retain(|&silent| silent != other);
            if let Some(claim) = self.upstreams.unclaim(other) {
                self.claim(upstream, claim.by, ClaimBasis::TimeAndAddress);
            }
        }
        if self.silent.get(&remote).is_some_and(Vec::is_empty) {
            self.silent.remove(&remote);
        }
    }

    /// Marks a connection's `nth` request as reported.
    pub(super) fn mark_reported(&mut self, flow: u64, nth: usize) {
        let request = self.connection_mut(flow).and_then(|connection| connection.pending.get_mut(nth));
        if let Some(request) = request {
            request.reported = true;
        }
    }

    /// Handles the end of an upstream socket. It stays known while its session waits, and while it is unclaimed, since
    /// a session may still turn out to be the one it was dialed for.
    pub(super) fn upstream_ended(&mut self, flow: u64) {
        let claim = self.upstreams.get(flow).and_then(|upstream| upstream.claim);
        if claim.is_some_and(|claim| self.connections.get(claim.by).is_none()) {
            self.upstreams.remove(flow);
        }
    }

    /// Whether apps use this address as a proxy.
    pub(super) fn is_proxy(&self, remote: SocketAddr) -> bool {
        self.proxies.get(&remote).is_some()
    }

    /// Keeps the end of a sidecar's accepted socket until its app has sent something.
    pub(super) fn keep_early_end(&mut self, event: &Event) {
        self.link_upstream(event);
        let peer = (event.netns, event.remote);
        self.early_ends.insert(event.time, peer, event.clone());
    }

    /// The end of this connection's accepted socket, if it came before the app's first bytes.
    pub(super) fn take_early_end(&mut self, flow: u64) -> Option<Event> {
        let connection = self.connection(flow)?;
        let opened = connection.opened.unwrap_or(0);
        let end = self.early_ends.remove(&connection.peer()?)?;
        // An earlier end is one of another connection from the same port.
        (end.time >= opened).then_some(end)
    }

    /// Removes a connection, its requests, and the upstream sockets it claimed.
    pub(super) fn remove_connection(&mut self, flow: u64) {
        while self.connection(flow).is_some_and(|connection| !connection.pending.is_empty()) {
            self.stop_waiting(flow);
            if let Some(connection) = self.connection_mut(flow) {
                connection.settle();
            }
        }
        let Some(connection) = self.connections.remove(flow) else { return };
        for upstream in connection.upstreams {
            self.forget_silent(upstream);
            let claim = self.upstreams.get(upstream).and_then(|upstream| upstream.claim);
            if claim.is_some_and(|claim| claim.by == flow) {
                self.upstreams.remove(upstream);
            }
        }
    }

    fn forget_silent(&mut self, upstream: u64) {
        let Some(remote) = self.upstreams.get(upstream).map(|socket| socket.remote) else { return };
        if let Some(silent) = self.silent.get_mut(&remote) {
            silent.retain(|&other| other != upstream);
            if silent.is_empty() {
                self.silent.remove(&remote);
            }
        }
    }

    /// Drops upstream sockets and early ends from before `asked_before`, connections from before `kept_after`, and what is
    /// beyond the bounds: connections and tunnels together have `capacity`, and connections [`MAX_BYTES`]. The oldest
    /// connection of the pod whose connections take most memory goes first, so that a pod loses no session to another's.
    pub(super) fn expire(&mut self, time: u64, asked_before: u64, kept_after: u64, capacity: usize) {
        self.upstreams.expire(time, asked_before, kept_after, capacity);
        self.proxies.expire(kept_after, capacity);
        // A socket for the last connection to a proxy may be one deadline younger, and is itself kept for one.
        let lately = asked_before.saturating_sub(time.saturating_sub(asked_before));
        self.dialed_lately.expire(lately, capacity);
        self.early_ends.expire(asked_before, capacity);
        while self.tunnels.oldest().is_some_and(|oldest| oldest < kept_after) {
            self.tunnels.remove_oldest();
        }
        while self.connections.oldest().is_some_and(|oldest| oldest < kept_after) {
            if let Some(flow) = self.connections.pop_oldest() {
                self.remove_connection(flow);
            }
        }
        while self.len() > capacity || self.connections.bytes() > MAX_BYTES {
            let before = self.len();
            // Connections have a quarter of the capacity to themselves, however many tunnels there are.
            if before > capacity && self.tunnels.len() > capacity - capacity / 4 {
                self.tunnels.remove_oldest();
            } else if let Some(flow) = self.connections.first_to_go() {
                self.remove_connection(flow);
            } else if self.tunnels.oldest().is_some() {
                self.tunnels.remove_oldest();
            } else {
                break;
            }
            self.dropped += (before - self.len()) as u64;
        }
    }
}
