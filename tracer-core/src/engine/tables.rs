//! The core's state: connections and upstream sockets, and the indices by which one finds the other. It keeps them
//! consistent and bounded; it decides nothing.

use std::net::SocketAddr;

use foldhash::HashMap;

use super::{
    Stats,
    connections::{Connections, Peer},
    request_index::Lines,
    tunnels::Tunnels,
};
use crate::{
    connection::Connection,
    event::Event,
    flow::{Claim, Ground, Upstreams},
    latest::Latest,
    queue::Queue,
    verdict::Carried,
};

#[derive(Default)]
pub(super) struct Tables {
    connections: Connections,
    pub(super) lines: Lines,
    /// The requests that wait for an answer, in the order in which they were made.
    waiting: Queue,
    pub(super) tunnels: Tunnels,
    /// Ends of sidecar sockets whose app has not sent anything yet.
    early_ends: Latest<Peer, Event>,
    pub(super) upstreams: Upstreams,
    /// Proxies that apps dialled lately.
    proxies: Latest<SocketAddr, ()>,
    /// Sockets that were given to a session before they had carried a byte, by where they were dialled to.
    mute: HashMap<SocketAddr, Vec<u64>>,
    dropped: u64,
}

impl Tables {
    pub(super) fn stats(&self) -> Stats {
        Stats {
            connections: self.len(),
            pending: self.connections.iter().map(|connection| connection.pending.len()).sum(),
            upstreams: self.upstreams.len() + self.tunnels.len(),
            dropped: self.dropped,
        }
    }

    /// How many connections are known.
    fn len(&self) -> usize {
        self.connections.len() + self.tunnels.len()
    }

    pub(super) fn connection(&self, flow: u64) -> Option<&Connection> {
        self.connections.get(flow)
    }

    pub(super) fn connection_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.connections.get_mut(flow)
    }

    /// The connection of an app's event.
    pub(super) fn connection_or_new(&mut self, event: &Event) -> Option<&mut Connection> {
        let (connection, is_new) = self.connections.get_or_new(event)?;
        if is_new {
            self.proxies.insert(event.time, event.remote, ());
        }
        Some(connection)
    }

    /// The connection that the sidecar accepted with this socket, as far as its app's leg told.
    pub(super) fn by_reply(&self, reply: u64) -> Option<&Connection> {
        self.connections.by_reply(reply)
    }

    /// The connection of an event of the sidecar's accepted socket, which may be the first to tell that the two are one.
    pub(super) fn answered_by(&mut self, event: &Event) -> Option<u64> {
        let flow = self.connections.answered_by(event)?;
        if let Some(upstream) = event.link.and_then(|dialed| self.upstreams.get_mut(dialed)) {
            upstream.link = Some(event.flow);
        }
        Some(flow)
    }

    /// A connection has `added` new requests; with none, its latest one waits on.
    pub(super) fn wait(&mut self, flow: u64, time: u64, added: usize) {
        let Some(connection) = self.connections.get_mut(flow) else {
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
        let Some(connection) = self.connections.get(flow) else { return };
        let Some(asked) = connection.pending.front() else { return };
        if let Some(place) = asked.place {
            self.waiting.give_up(place);
        }
        self.lines.take(connection, asked);
    }

    /// This socket carries the connection as it is, for as long as it lives.
    pub(super) fn claim_tunnel(&mut self, upstream: u64, flow: u64, ground: Ground) {
        self.give(upstream, flow, ground);
        if let Some(connection) = self.connections.get_mut(flow) {
            connection.tunnel = Some(upstream);
            connection.ground = Some(ground);
            self.lines.put(connection);
        }
    }

    /// A CONNECT was granted. Of a connection that nothing more can come of, no more is kept than its sockets.
    pub(super) fn grant(&mut self, flow: u64, time: u64) {
        let Some(connection) = self.connection_mut(flow) else { return };
        connection.becomes_opaque();
        if let (Some(reply), Some(upstream)) = (connection.reply, connection.tunnel)
            && connection.is_linked()
            && connection.pending.is_empty()
            && connection.upstreams.as_slice() == [upstream]
        {
            self.remove_connection(flow);
            self.tunnels.add(time, [flow, reply, upstream]);
        }
    }

    /// This socket carries one request of the connection, in the sidecar's words.
    pub(super) fn claim_rewritten(&mut self, upstream: u64, flow: u64, line: u64) {
        self.give(upstream, flow, Ground::Bytes);
        if let Some(connection) = self.connections.get_mut(flow) {
            if let Some(asked) = connection.pending.iter_mut().find(|asked| asked.line == line) {
                asked.rewritten = Some(upstream);
            }
            self.lines.put(connection);
        }
    }

    /// This socket is explained by the connection, and by no other; if another one had it, that must look again.
    pub(super) fn claim(&mut self, upstream: u64, flow: u64, ground: Ground) {
        self.give(upstream, flow, ground);
        if let Some(connection) = self.connections.get_mut(flow) {
            self.lines.put(connection);
        }
    }

    fn give(&mut self, upstream: u64, flow: u64, ground: Ground) {
        let before = self.upstreams.get(upstream).and_then(|upstream| upstream.claim);
        if let Some(other) = before.and_then(|claim| self.connections.get_mut(claim.by)) {
            other.release(upstream);
            if other.flow != flow {
                self.lines.put(other);
            }
        }
        self.upstreams.claim(upstream, Claim { by: flow, ground });
        if let Some(connection) = self.connections.get_mut(flow) {
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
        if claim.is_some_and(|claim| self.connections.get(claim.by).is_none()) {
            self.upstreams.remove(flow);
        }
    }

    /// Does an app mean this address? Then a socket that the sidecar dialled to it is for that app.
    pub(super) fn is_dialed_by_app(&self, remote: SocketAddr) -> bool {
        self.proxies.get(&remote).is_some()
    }

    /// Keeps the end of a sidecar's socket until its app has sent something.
    pub(super) fn keep_early_end(&mut self, event: &Event) {
        if let Some(upstream) = event.link.and_then(|dialed| self.upstreams.get_mut(dialed)) {
            upstream.link = Some(event.flow);
        }
        let peer = (event.netns, event.remote);
        self.early_ends.insert(event.time, peer, event.clone());
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
        let Some(connection) = self.connections.remove(flow) else { return };
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
        // A socket for the last of these connections may be as old as that, and is kept for as long again.
        self.proxies.expire(asked_before.saturating_sub(time.saturating_sub(asked_before)), capacity);
        self.early_ends.expire(asked_before, capacity);
        loop {
            let before = self.len();
            let (asked, granted) = (self.connections.first(), self.tunnels.first());
            let Some(oldest) = asked.into_iter().chain(granted).min() else { break };
            if oldest >= kept_after && before <= capacity {
                break;
            }
            if granted == Some(oldest) {
                self.tunnels.remove_first();
            } else if let Some(flow) = self.connections.pop_first() {
                self.remove_connection(flow);
            }
            if before > capacity {
                self.dropped += (before - self.len()) as u64;
            }
        }
    }
}
