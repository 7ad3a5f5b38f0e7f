//! The apps' connections, and by what each is found: its own flow, the socket with which the sidecar accepted it, or, until
//! that was seen itself, the address that the sidecar sees.

use std::{collections::VecDeque, net::SocketAddr};

use crate::{
    event::Event,
    place::{Index, Place, Places},
    session::Connection,
};

/// A sidecar's accepted socket, by its peer: network namespace and address.
pub(super) type Peer = (u64, SocketAddr);

/// So many names of connections that are gone are not worth looking for.
const FEW: usize = 1_024;

#[derive(Default)]
pub(super) struct Connections {
    places: Places<Connection>,
    by_flow: Index,
    /// Those whose accepted socket was not seen yet.
    by_peer: Index,
    /// By the socket with which the sidecar accepted them. Where only the app's leg told, it may be that of an earlier
    /// connection from the same port, if the sidecar has not accepted this one yet.
    by_reply: Index,
    /// In the order of their first event, by flow and place; may name some that are gone.
    order: VecDeque<(u64, u64, Place)>,
}

impl Connections {
    pub(super) fn get(&self, flow: u64) -> Option<&Connection> {
        self.places.get(self.place(flow)?)
    }

    pub(super) fn get_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.places.get_mut(self.place(flow)?)
    }

    fn place(&self, flow: u64) -> Option<Place> {
        self.by_flow.get(flow, |place| self.places.get(place).map(|connection| connection.flow))
    }

    /// The connection of an app's event, and whether this is the first of it.
    pub(super) fn get_or_new(&mut self, event: &Event) -> Option<(&mut Connection, bool)> {
        let known = self.place(event.flow);
        let place = known.unwrap_or_else(|| self.add(event));
        let connection = self.places.get_mut(place)?;
        connection.sidecar = connection.sidecar.or(event.sidecar);
        connection.reply = connection.reply.or(event.link);
        let (peer, reply) = (connection.peer(), connection.reply);
        let is_met = connection.is_met;
        if let Some(reply) = reply
            && !self.told_by(reply).is_some_and(|older| self.keeps_port(older, place))
        {
            self.index_reply(reply, place);
        }
        if let Some(peer) = peer
            && !is_met
            && !self.met_by(peer).is_some_and(|older| self.keeps_port(older, place))
        {
            let Self { places, by_peer, .. } = self;
            by_peer.put(Some(peer), place, |place| places.get(place).map(Connection::peer));
        }
        Some((self.places.get_mut(place)?, known.is_none()))
    }

    fn add(&mut self, event: &Event) -> Place {
        let flow = event.flow;
        let place = self.places.put(Connection::new(event));
        let Self { places, by_flow, order, .. } = self;
        let flow_in = |place| places.get(place).map(|connection| connection.flow);
        by_flow.put(flow, place, flow_in);
        // Most are gone by then, and one that lives long must not keep their places for them.
        if order.len() > 2 * places.len() + FEW {
            order.retain(|&(_, flow, place)| flow_in(place) == Some(flow));
        }
        order.push_back((event.time, flow, place));
        place
    }

    /// Of two connections that an app has from one port, address translation leaves that port to the older one: what
    /// the sidecar accepted from there is that one's. The other's accepted socket has another peer.
    fn keeps_port(&self, older: Place, place: Place) -> bool {
        let (Some(older), Some(connection)) = (self.places.get(older), self.places.get(place)) else {
            return false;
        };
        older.remote != connection.remote && !older.app_closed && older.opened <= connection.opened
    }

    fn met_by(&self, peer: Peer) -> Option<Place> {
        self.by_peer.get(Some(peer), |place| self.places.get(place).map(Connection::peer))
    }

    fn told_by(&self, reply: u64) -> Option<Place> {
        self.by_reply.get(Some(reply), |place| self.places.get(place).map(|found| found.reply))
    }

    fn index_reply(&mut self, reply: u64, place: Place) {
        let Self { places, by_reply, .. } = self;
        by_reply.put(Some(reply), place, |place| places.get(place).map(|found| found.reply));
    }

    /// The connection that the sidecar accepted with this socket, as far as its app's leg told.
    pub(super) fn by_reply(&self, reply: u64) -> Option<&Connection> {
        self.places.get(self.told_by(reply)?)
    }

    /// The flow of the connection that an event of the sidecar's accepted socket is about.
    pub(super) fn answered_by(&mut self, event: &Event) -> Option<u64> {
        // A socket that was accepted before the app dialled answers another connection from the same port.
        let is_as_old = |place: &Place| {
            let opened = self.places.get(*place).and_then(|connection| connection.opened);
            opened.zip(event.opened).is_none_or(|(opened, accepted)| accepted >= opened)
        };
        let told = self.told_by(event.flow).filter(is_as_old);
        let place = told.or_else(|| self.met_by((event.netns, event.remote)).filter(is_as_old))?;
        let connection = self.places.get_mut(place)?;
        if !std::mem::replace(&mut connection.is_met, true) {
            self.by_peer.take(connection.peer(), place);
        }
        if told.is_none() {
            let before = connection.reply.replace(event.flow);
            if before.is_some() {
                self.by_reply.take(before, place);
            }
            self.index_reply(event.flow, place);
        }
        let connection = self.places.get_mut(place)?;
        if connection.acceptor.is_none() && event.task.is_some() {
            connection.acceptor.clone_from(&event.task);
            connection.accepted = event.opened;
        }
        connection.dialed = connection.dialed.or(event.link);
        Some(connection.flow)
    }

    /// Takes a connection away.
    pub(super) fn remove(&mut self, flow: u64) -> Option<Connection> {
        let place = self.place(flow)?;
        self.by_flow.take(flow, place);
        let connection = self.places.take(place)?;
        if connection.reply.is_some() {
            self.by_reply.take(connection.reply, place);
        }
        if !connection.is_met {
            self.by_peer.take(connection.peer(), place);
        }
        Some(connection)
    }

    /// When the first event was that is remembered.
    pub(super) fn first(&self) -> Option<u64> {
        self.order.front().map(|(seen, ..)| *seen)
    }

    /// Forgets that one; gives its flow, if that is still there.
    pub(super) fn pop_first(&mut self) -> Option<u64> {
        let (_, flow, place) = self.order.pop_front()?;
        self.places.get(place).is_some_and(|connection| connection.flow == flow).then_some(flow)
    }

    /// All, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}
