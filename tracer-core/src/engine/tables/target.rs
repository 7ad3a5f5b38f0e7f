//! How the addresses that sidecars dial are related to those that apps dialed.

use std::net::SocketAddr;

use super::Tables;
use crate::{engine::connection::Connection, event::End};

/// How the address that a sidecar dialed is related to an app's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Target {
    /// It is the address that the app dialed, or is known to serve it.
    Own,
    /// It is known for no address that an app dialed.
    Unknown,
    /// An app dialed it lately, and may have done so for this socket.
    Dialed,
    /// An app has a connection to it, or it serves another address.
    Others,
}

impl Tables {
    /// How the address that a sidecar dialed is related to a connection that it accepted.
    pub(in crate::engine) fn target(&self, connection: &Connection, upstream: SocketAddr) -> Target {
        let Some(sidecar) = connection.sidecar else { return Target::Others };
        if upstream == connection.remote {
            return Target::Own;
        }
        match self.upstreams.endpoints.serves(sidecar.netns, upstream, connection.remote) {
            Some(true) => Target::Own,
            Some(false) => Target::Others,
            // A socket to an address to which another app of the pod has a connection is for that app.
            None if self.connections.is_dialed(sidecar.netns, upstream) => Target::Others,
            None if self.dialed_lately.get(&(sidecar.netns, upstream)).is_some() => Target::Dialed,
            None => Target::Unknown,
        }
    }

    /// Whether a socket to this address may be for the connection to which it is linked. An endpoint may serve more addresses than
    /// those that are known; but if an app is connected to one of these now, the socket is for that app.
    pub(in crate::engine) fn may_be_for(&self, connection: &Connection, upstream: SocketAddr) -> bool {
        let Some(sidecar) = connection.sidecar else { return false };
        let is_dialed = |remote: &SocketAddr| self.connections.is_dialed(sidecar.netns, *remote);
        let served = self.upstreams.endpoints.served(sidecar.netns, upstream);
        self.target(connection, upstream) != Target::Others
            || !(is_dialed(&upstream) || served.iter().any(is_dialed))
    }

    /// Learns the endpoint from a dial that failed, if it is known for which accepted socket it was. A socket that carried
    /// bytes is known by these: its link may be wrong.
    pub(in crate::engine) fn learn_from_failure(&mut self, upstream: u64, time: u64) {
        let Some(socket) = self.upstreams.get(upstream) else { return };
        let is_failure = socket.bytes.is_empty() && socket.ended.is_some_and(|end| end != End::ClosedHere);
        let Some(reply) = socket.link.filter(|_| is_failure) else { return };
        if let Some(flow) = self.by_reply(reply).map(|connection| connection.flow) {
            self.learn_endpoint(upstream, flow, time);
        }
    }

    /// Learns that the address that a sidecar dialed for a connection serves the one that its app dialed.
    pub(super) fn learn_endpoint(&mut self, upstream: u64, flow: u64, time: u64) {
        let Some(connection) = self.connections.get(flow) else { return };
        let Some(socket) = self.upstreams.get(upstream) else { return };
        let (dialed, endpoint, netns) = (connection.remote, socket.remote, socket.netns);
        if connection.sidecar.is_some_and(|sidecar| sidecar.netns == netns) {
            self.upstreams.endpoints.learn(time, netns, dialed, endpoint);
        }
    }
}
