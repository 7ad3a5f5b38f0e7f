//! The apps' connections, and by what each is found: its own flow, the socket with which the sidecar accepted it, or, until
//! that was seen itself, the address that the sidecar sees.

use std::net::SocketAddr;

use super::ages::Ages;
use crate::{
    beside::Beside,
    connection::Connection,
    event::Event,
    place::{Index, Place, Places},
};

/// A sidecar's accepted socket, by its peer: network namespace and address.
pub(super) type Peer = (u64, SocketAddr);

#[derive(Default)]
pub(super) struct Connections {
    places: Places<Connection>,
    by_flow: Index<Beside>,
    /// Those whose accepted socket was not seen yet.
    by_peer: Index,
    /// By the socket with which the sidecar accepted them. Where only the app's leg told, it may be that of an earlier
    /// connection from the same port, if the sidecar has not accepted this one yet.
    by_reply: Index<Beside>,
    /// Flow and place, by the time of the first event.
    ages: Ages<(u64, Place)>,
}

impl Connections {
    pub(super) fn get(&self, flow: u64) -> Option<&Connection> {
        self.places.get(self.place(flow)?)
    }

    pub(super) fn get_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.places.get_mut(self.place(flow)?)
    }

    fn place(&self, flow: u64) -> Option<Place> {
        self.by_flow.get_again(flow, flow_in(&self.places))
    }

    /// The connection of an app's event, and whether this is the first of it.
    pub(super) fn get_or_new(&mut self, event: &Event) -> Option<(&mut Connection, bool)> {
        let known = self.place(event.flow);
        let place = known.unwrap_or_else(|| self.add(event));
        let connection = self.places.get_mut(place)?;
        connection.sidecar = connection.sidecar.or(event.sidecar);
        connection.reply = connection.reply.or(event.link);
        let (peer, reply) = (connection.peer().filter(|_| !connection.is_met), connection.reply);
        let Self { places, by_peer, by_reply, .. } = self;
        // Of two connections that an app has from one port, address translation leaves that port to the older one: what
        // the sidecar accepted from there is that one's. The other's accepted socket has another peer.
        let keeps_port = |older: Place| {
            places.get(older).zip(places.get(place)).is_some_and(|(older, connection)| {
                older.remote != connection.remote && !older.app_closed && older.opened <= connection.opened
            })
        };
        if reply.is_some() {
            by_reply.put_unless(reply, place, reply_in(places), keeps_port);
        }
        if peer.is_some() {
            by_peer.put_unless(peer, place, peer_in(places), keeps_port);
        }
        Some((self.places.get_mut(place)?, known.is_none()))
    }

    fn add(&mut self, event: &Event) -> Place {
        let flow = event.flow;
        let place = self.places.put(Connection::new(event));
        let Self { places, by_flow, ages, .. } = self;
        by_flow.put(flow, place, flow_in(places));
        let is_there = |&(flow, place): &(u64, Place)| flow_in(places)(place) == Some(flow);
        ages.push(event.time, (flow, place), places.len(), is_there);
        place
    }

    fn met_by(&self, peer: Peer) -> Option<Place> {
        self.by_peer.get(Some(peer), peer_in(&self.places))
    }

    fn told_by(&self, reply: u64) -> Option<Place> {
        self.by_reply.get(Some(reply), reply_in(&self.places))
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
            let Self { places, by_reply, .. } = self;
            if before.is_some() {
                by_reply.take(before, place);
            }
            by_reply.put(Some(event.flow), place, reply_in(places));
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
        self.ages.first()
    }

    /// Forgets that one; gives its flow, if that is still there.
    pub(super) fn pop_first(&mut self) -> Option<u64> {
        let (flow, place) = self.ages.pop()?;
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

/// The keys of those in their places, as the indices ask for them.
fn flow_in(places: &Places<Connection>) -> impl Fn(Place) -> Option<u64> {
    |place| places.get(place).map(|connection| connection.flow)
}

fn peer_in(places: &Places<Connection>) -> impl Fn(Place) -> Option<Option<Peer>> {
    |place| places.get(place).map(Connection::peer)
}

fn reply_in(places: &Places<Connection>) -> impl Fn(Place) -> Option<Option<u64>> {
    |place| places.get(place).map(|connection| connection.reply)
}
