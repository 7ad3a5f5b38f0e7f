//! The core's state: connections and upstream sockets, and the indices by which one finds the other. It keeps them
//! consistent and bounded; it decides nothing.

use std::{collections::VecDeque, net::SocketAddr};

use foldhash::HashMap;

use super::{Stats, lines::Lines};
use crate::{
    event::Event,
    flow::{Claim, Ground, Upstreams},
    place::{Index, Place, Places},
    queue::Queue,
    session::Connection,
    verdict::Carried,
};

/// A sidecar's accepted socket, by its peer: network namespace and address.
type Peer = (u64, SocketAddr);

/// So many names of connections that are gone are not worth looking for.
const FEW: usize = 1_024;

#[derive(Default)]
pub(super) struct Tables {
    connections: Places<Connection>,
    by_flow: Index,
    /// Those of which it is not known yet with which socket the sidecar accepted them.
    by_peer: Index,
    /// By the socket with which the sidecar accepted them.
    by_reply: Index,
    pub(super) lines: Lines,
    /// The requests that wait for an answer, in the order in which they were made.
    waiting: Queue,
    /// Connections in the order of their first event, by flow and place; may name some that are gone.
    order: VecDeque<(u64, u64, Place)>,
    /// Ends of sidecar sockets whose app has not sent anything yet.
    early_ends: HashMap<Peer, Event>,
    early_order: VecDeque<(u64, Peer)>,
    pub(super) upstreams: Upstreams,
    /// Proxies that apps dialled lately, and when they last did.
    proxies: HashMap<SocketAddr, u64>,
    proxies_order: VecDeque<(u64, SocketAddr)>,
    /// Sockets that were given to a session before they had carried a byte, by where they were dialled to.
    mute: HashMap<SocketAddr, Vec<u64>>,
    dropped: u64,
}

impl Tables {
    pub(super) fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.len(),
            pending: self.connections.iter().map(|connection| connection.pending.len()).sum(),
            upstreams: self.upstreams.len(),
            dropped: self.dropped,
        }
    }

    pub(super) fn connection(&self, flow: u64) -> Option<&Connection> {
        self.connections.get(self.place(flow)?)
    }

    pub(super) fn connection_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.connections.get_mut(self.place(flow)?)
    }

    fn place(&self, flow: u64) -> Option<Place> {
        self.by_flow.get(flow, |place| self.connections.get(place).map(|connection| connection.flow))
    }

    /// The connection of an app's event.
    pub(super) fn connection_or_new(&mut self, event: &Event) -> Option<&mut Connection> {
        let flow = event.flow;
        let place = self.place(flow).unwrap_or_else(|| {
            self.proxies.insert(event.remote, event.time);
            self.proxies_order.push_back((event.time, event.remote));
            let place = self.connections.put(Connection::new(event));
            self.order.push_back((event.time, flow, place));
            let Self { connections, by_flow, .. } = self;
            by_flow.put(flow, place, |place| connections.get(place).map(|connection| connection.flow));
            place
        });
        let connection = self.connections.get_mut(place)?;
        connection.sidecar = connection.sidecar.or(event.sidecar);
        connection.reply = connection.reply.or(event.link);
        let (peer, reply) = (connection.peer(), connection.reply);
        if let Some(reply) = reply {
            if !self.told_by(reply).is_some_and(|older| self.keeps_port(older, place)) {
                self.index_reply(reply, place);
            }
        } else if let Some(peer) = peer
            && !self.met_by(peer).is_some_and(|older| self.keeps_port(older, place))
        {
            let Self { connections, by_peer, .. } = self;
            by_peer.put(Some(peer), place, |place| connections.get(place).map(Connection::peer));
        }
        self.connections.get_mut(place)
    }

    /// Of two connections that an app has from one port, address translation leaves that port to the older one: what
    /// the sidecar accepted from there is that one's. The other's accepted socket has another peer.
    fn keeps_port(&self, older: Place, place: Place) -> bool {
        let (Some(older), Some(connection)) = (self.connections.get(older), self.connections.get(place))
        else {
            return false;
        };
        older.remote != connection.remote && !older.app_closed && older.opened <= connection.opened
    }

    fn met_by(&self, peer: Peer) -> Option<Place> {
        self.by_peer.get(Some(peer), |place| self.connections.get(place).map(Connection::peer))
    }

    fn told_by(&self, reply: u64) -> Option<Place> {
        self.by_reply.get(Some(reply), |place| self.connections.get(place).map(|found| found.reply))
    }

    fn index_reply(&mut self, reply: u64, place: Place) {
        let Self { connections, by_reply, .. } = self;
        by_reply.put(Some(reply), place, |place| connections.get(place).map(|found| found.reply));
    }

    /// The connection that the sidecar accepted with this socket, as far as its app's leg told.
    pub(super) fn by_reply(&self, reply: u64) -> Option<&Connection> {
        self.connections.get(self.told_by(reply)?)
    }

    /// The connection of an event of the sidecar's accepted socket, which may be the first to tell that the two are one.
    pub(super) fn answered_by(&mut self, event: &Event) -> Option<u64> {
        // A socket that was accepted before the app dialled answers another connection from the same port.
        let is_as_old = |place: &Place| {
            let opened = self.connections.get(*place).and_then(|connection| connection.opened);
            opened.zip(event.opened).is_none_or(|(opened, accepted)| accepted >= opened)
        };
        let told = self.told_by(event.flow).filter(is_as_old);
        let place = told.or_else(|| self.met_by((event.netns, event.remote)).filter(is_as_old))?;
        if told.is_none() {
            let connection = self.connections.get_mut(place)?;
            connection.reply = Some(event.flow);
            self.by_peer.take(connection.peer(), place);
            self.index_reply(event.flow, place);
        }
        let connection = self.connections.get_mut(place)?;
        if connection.acceptor.is_none() && event.task.is_some() {
            connection.acceptor.clone_from(&event.task);
            connection.accepted = event.opened;
        }
        connection.dialed = connection.dialed.or(event.link);
        let flow = connection.flow;
        if let Some(upstream) = event.link.and_then(|dialed| self.upstreams.get_mut(dialed)) {
            upstream.link = Some(event.flow);
        }
        Some(flow)
    }

    /// A connection has `added` new requests; with none, its latest one waits on.
    pub(super) fn wait(&mut self, flow: u64, time: u64, added: usize) {
        let Some(connection) = self.place(flow).and_then(|place| self.connections.get_mut(place)) else {
            return;
        };
        if added == 0 {
            self.waiting.push(time, flow);
        }
        let pending = &mut connection.pending;
        let new = pending.len().saturating_sub(added)..;
        for asked in pending.range_mut(new) {
            asked.place = Some(self.waiting.push(time, flow));
        }
        self.lines.put(connection);
    }

    /// The next connection with a request made by `time`, each but once.
    pub(super) fn pop_waiting(&mut self, time: u64) -> Option<u64> {
        self.waiting.pop(time)
    }

    /// A connection's oldest request is answered.
    pub(super) fn stop_waiting(&mut self, flow: u64) {
        let Some(connection) = self.place(flow).and_then(|place| self.connections.get(place)) else { return };
        let Some(asked) = connection.pending.front() else { return };
        if let Some(place) = asked.place {
            self.waiting.give_up(place);
        }
        self.lines.take(connection, asked);
    }

    /// This socket carries the connection as it is, for as long as it lives.
    pub(super) fn claim_tunnel(&mut self, upstream: u64, flow: u64, ground: Ground) {
        self.give(upstream, flow, ground);
        if let Some(connection) = self.place(flow).and_then(|place| self.connections.get_mut(place)) {
            connection.tunnel = Some(upstream);
            self.lines.put(connection);
        }
    }

    /// This socket carries one request of the connection, in the sidecar's words.
    pub(super) fn claim_rewritten(&mut self, upstream: u64, flow: u64, line: u64) {
        self.give(upstream, flow, Ground::Bytes);
        if let Some(connection) = self.place(flow).and_then(|place| self.connections.get_mut(place)) {
            if let Some(asked) = connection.pending.iter_mut().find(|asked| asked.line == line) {
                asked.rewritten = Some(upstream);
            }
            self.lines.put(connection);
        }
    }

    /// This socket is explained by the connection, and by no other; if another one had it, that must look again.
    pub(super) fn claim(&mut self, upstream: u64, flow: u64, ground: Ground) {
        self.give(upstream, flow, ground);
        if let Some(connection) = self.place(flow).and_then(|place| self.connections.get_mut(place)) {
            self.lines.put(connection);
        }
    }

    fn give(&mut self, upstream: u64, flow: u64, ground: Ground) {
        let before = self.upstreams.get(upstream).and_then(|upstream| upstream.claim);
        if let Some(other) =
            before.and_then(|claim| self.place(claim.by)).and_then(|place| self.connections.get_mut(place))
        {
            other.release(upstream);
            if other.flow != flow {
                self.lines.put(other);
            }
        }
        self.upstreams.claim(upstream, Claim { by: flow, ground });
        if let Some(connection) = self.place(flow).and_then(|place| self.connections.get_mut(place)) {
            connection.upstreams.push(upstream);
        }
    }

    /// May this socket be given to a session? One whose bytes say whose it is may change its owner; a failure may be
    /// that of several.
    pub(super) fn is_unclaimed_or_exchanged(&self, upstream: u64, carried: Carried) -> bool {
        let by_bytes = matches!(carried, Carried::SameBytes | Carried::RewrittenRequest);
        self.upstreams.get(upstream).is_some_and(|upstream| by_bytes || upstream.claim.is_none())
    }

    /// This socket, which has carried nothing yet, is most likely the connection's.
    pub(super) fn claim_mute(&mut self, upstream: u64, flow: u64) {
        self.claim(upstream, flow, Ground::Circumstance);
        if let Some(socket) = self.upstreams.get(upstream) {
            self.mute.entry(socket.remote).or_default().push(upstream);
        }
    }

    /// This socket has carried its first bytes. If it was nobody's, then one was given away in its place that still is
    /// mute: those change places.
    pub(super) fn speaks(&mut self, upstream: u64) {
        let Some(socket) = self.upstreams.get(upstream) else { return };
        let (remote, netns, is_free) = (socket.remote, socket.netns, socket.claim.is_none());
        let thread = socket.task.as_ref().map(|task| task.tid);
        let Some(mute) = self.mute.get_mut(&remote) else { return };
        if let Some(at) = mute.iter().position(|&other| other == upstream) {
            mute.swap_remove(at);
        } else if is_free {
            // One thread handles both, unless connections are balanced between threads.
            let alike = |other: &u64, same_thread: bool| {
                self.upstreams.get(*other).is_some_and(|other| {
                    other.netns == netns
                        && (!same_thread || other.task.as_ref().map(|task| task.tid) == thread)
                })
            };
            let nearest = mute.iter().find(|&other| alike(other, true));
            let Some(&other) = nearest.or_else(|| mute.iter().find(|&other| alike(other, false))) else {
                return;
            };
            mute.retain(|&mute| mute != other);
            if let Some(claim) = self.upstreams.unclaim(other) {
                self.claim(upstream, claim.by, Ground::Circumstance);
            }
        }
        if self.mute.get(&remote).is_some_and(Vec::is_empty) {
            self.mute.remove(&remote);
        }
    }

    /// A request was reported, and will not be again.
    pub(super) fn mark_reported(&mut self, flow: u64, nth: usize) {
        if let Some(asked) = self.connection_mut(flow).and_then(|connection| connection.pending.get_mut(nth))
        {
            asked.reported = true;
        }
    }

    /// The upstream socket is gone. What it did is still needed while its session waits; without a session, it may
    /// yet turn out to be the dial of one.
    pub(super) fn upstream_ended(&mut self, flow: u64) {
        let claim = self.upstreams.get(flow).and_then(|upstream| upstream.claim);
        if claim.is_some_and(|claim| self.place(claim.by).is_none()) {
            self.upstreams.remove(flow);
        }
    }

    /// Does an app mean this address? Then a socket that the sidecar dialled to it is for that app.
    pub(super) fn is_dialed_by_app(&self, remote: SocketAddr) -> bool {
        self.proxies.contains_key(&remote)
    }

    /// Keeps the end of a sidecar's socket until its app has sent something.
    pub(super) fn keep_early_end(&mut self, event: &Event) {
        if let Some(upstream) = event.link.and_then(|dialed| self.upstreams.get_mut(dialed)) {
            upstream.link = Some(event.flow);
        }
        let peer = (event.netns, event.remote);
        self.early_order.push_back((event.time, peer));
        self.early_ends.insert(peer, event.clone());
    }

    /// The end of this connection's sidecar socket, if that came before the app's first bytes.
    pub(super) fn take_early_end(&mut self, flow: u64) -> Option<Event> {
        let connection = self.connection(flow)?;
        let opened = connection.opened.unwrap_or(0);
        let end = self.early_ends.remove(&connection.peer()?)?;
        // An app's port is used again, sooner or later.
        (end.time >= opened).then_some(end)
    }

    /// Forgets a connection and what is indexed under it.
    pub(super) fn remove_connection(&mut self, flow: u64) {
        while self.connection(flow).is_some_and(|connection| !connection.pending.is_empty()) {
            self.stop_waiting(flow);
            if let Some(connection) = self.connection_mut(flow) {
                connection.settle();
            }
        }
        let Some(place) = self.place(flow) else { return };
        self.by_flow.take(flow, place);
        let Some(connection) = self.connections.take(place) else { return };
        if connection.reply.is_some() {
            self.by_reply.take(connection.reply, place);
        } else {
            self.by_peer.take(connection.peer(), place);
        }
        for upstream in connection.upstreams {
            self.forget_mute(upstream);
            if self
                .upstreams
                .get(upstream)
                .is_some_and(|upstream| upstream.claim.is_some_and(|c| c.by == flow))
            {
                self.upstreams.remove(upstream);
            }
        }
    }

    fn forget_mute(&mut self, upstream: u64) {
        let Some(remote) = self.upstreams.get(upstream).map(|socket| socket.remote) else { return };
        if let Some(mute) = self.mute.get_mut(&remote) {
            mute.retain(|&other| other != upstream);
            if mute.is_empty() {
                self.mute.remove(&remote);
            }
        }
    }

    /// Forgets upstream sockets and early ends from before `asked_before`, connections from before `kept_after`, and
    /// the oldest of each until no more than `capacity` are left.
    pub(super) fn expire(&mut self, time: u64, asked_before: u64, kept_after: u64, capacity: usize) {
        self.upstreams.expire(asked_before, capacity);
        while let Some(&(seen, proxy)) = self.proxies_order.front() {
            // A socket for the last of these connections may be as old as that, and is kept for as long again.
            let is_long_ago = seen < asked_before.saturating_sub(time.saturating_sub(asked_before));
            if !is_long_ago && self.proxies_order.len() <= capacity {
                break;
            }
            self.proxies_order.pop_front();
            if self.proxies.get(&proxy) == Some(&seen) {
                self.proxies.remove(&proxy);
            }
        }
        while let Some(&(seen, peer)) = self.early_order.front() {
            if seen >= asked_before && self.early_ends.len() <= capacity {
                break;
            }
            self.early_order.pop_front();
            if self.early_ends.get(&peer).is_some_and(|end| end.time == seen) {
                self.early_ends.remove(&peer);
            }
        }
        while let Some(&(seen, flow, _)) = self.order.front() {
            let too_many = self.connections.len() > capacity;
            if !too_many && seen >= kept_after {
                break;
            }
            self.order.pop_front();
            self.dropped += u64::from(too_many && self.place(flow).is_some());
            self.remove_connection(flow);
        }
        // Most are gone by then, and one that lives long must not keep their places for them.
        if self.order.len() > 2 * self.connections.len() + FEW {
            let Self { order, connections, .. } = self;
            let flow_in = |place| connections.get(place).map(|connection| connection.flow);
            order.retain(|&(_, flow, place)| flow_in(place) == Some(flow));
        }
    }
}
