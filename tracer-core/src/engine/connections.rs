//! The apps' connections, and the indices that find one: its own flow, the socket with which the sidecar accepted it,
//! or, until that socket was seen, the address that the sidecar sees.

use std::{
    collections::hash_map::Entry,
    hash::{BuildHasher, Hash},
    net::SocketAddr,
};

use foldhash::HashMap;

use super::{connection::Connection, expiry::AgeQueue, tenants::Tenants};
use crate::event::Event;

/// The peer of a sidecar's accepted socket: network namespace and address.
pub(super) type Peer = (u64, SocketAddr);

#[derive(Default)]
pub(super) struct Connections {
    /// Boxed, so that room for more connections takes little.
    by_flow: HashMap<u64, Box<Connection>>,
    /// App flows, by peer, of connections whose accepted socket was not seen yet.
    by_peer: HashMap<Peer, u64>,
    /// App flows, by the sidecar's accepted socket. Where only the app's leg named that socket, it may be the one of an
    /// earlier connection from the same port, if the sidecar has not accepted this one yet.
    by_reply: HashMap<u64, u64>,
    /// How many connections there are to each address, by the sidecar's network namespace.
    dialed: HashMap<Peer, usize>,
    /// Flow and serial number, by the time of the first event.
    ages: AgeQueue<(u64, u64)>,
    next_serial: u64,
    /// Which pod has how many bytes of them.
    tenants: Tenants,
}

impl Connections {
    pub(super) fn get(&self, flow: u64) -> Option<&Connection> {
        self.by_flow.get(&flow).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, flow: u64) -> Option<&mut Connection> {
        self.by_flow.get_mut(&flow).map(Box::as_mut)
    }

    /// The connection of an app's event, and whether the event is the first of it.
    pub(super) fn get_or_new(&mut self, event: &Event) -> Option<(&mut Connection, bool)> {
        let flow = event.flow;
        let is_new = !self.by_flow.contains_key(&flow);
        if is_new {
            self.add(event);
        }
        let Self { by_flow, by_peer, by_reply, dialed, .. } = self;
        let connection = by_flow.get_mut(&flow)?;
        if connection.sidecar.is_none()
            && let Some(sidecar) = event.sidecar
        {
            connection.sidecar = Some(sidecar);
            *dialed.entry((sidecar.netns, connection.remote)).or_default() += 1;
        }
        connection.reply = connection.reply.or(event.link);
        let connection = by_flow.get(&flow)?;
        // If an app has two connections from one port, address translation leaves that port to the older one: what the
        // sidecar accepted from there belongs to it. The other's accepted socket has another peer.
        let keeps_port = |older: u64| {
            by_flow.get(&older).is_some_and(|older| {
                older.remote != connection.remote && !older.app_closed && older.opened <= connection.opened
            })
        };
        if let Some(reply) = connection.reply {
            insert_unless(by_reply, reply, flow, keeps_port);
        }
        if let Some(peer) = connection.peer().filter(|_| !connection.reply_seen) {
            insert_unless(by_peer, peer, flow, keeps_port);
        }
        self.by_flow.get_mut(&flow).map(|connection| (connection.as_mut(), is_new))
    }

    fn add(&mut self, event: &Event) {
        let (flow, serial) = (event.flow, self.next_serial);
        self.next_serial += 1;
        let mut connection = Box::new(Connection::new(event, serial));
        connection.charged = connection.bytes();
        self.tenants.add(connection.tenant, serial, flow, connection.charged);
        self.by_flow.insert(flow, connection);
        let Self { by_flow, ages, .. } = self;
        // A connection may be removed and added again under its flow.
        let exists =
            |&(flow, serial): &(u64, u64)| by_flow.get(&flow).is_some_and(|found| found.serial == serial);
        ages.push(event.time, (flow, serial), by_flow.len(), exists);
    }

    /// Whether an app whose sidecar is in this network namespace has a connection to this address.
    pub(super) fn is_dialed(&self, netns: u64, remote: SocketAddr) -> bool {
        self.dialed.contains_key(&(netns, remote))
    }

    /// The connection that the sidecar accepted with this socket, if its app's leg or the socket itself named it.
    pub(super) fn by_reply(&self, reply: u64) -> Option<&Connection> {
        self.get(*self.by_reply.get(&reply)?)
    }

    /// The app's flow that an event of a sidecar's accepted socket belongs to.
    pub(super) fn answered_by(&mut self, event: &Event) -> Option<u64> {
        // A socket that was accepted before the app dialed answers another connection from the same port.
        let is_as_old = |flow: &u64| {
            let opened = self.get(*flow).and_then(|connection| connection.opened);
            opened.zip(event.opened).is_none_or(|(opened, accepted)| accepted >= opened)
        };
        let known = self.by_reply.get(&event.flow).copied().filter(is_as_old);
        let flow = known.or_else(|| {
            let peer = (event.netns, event.remote);
            self.by_peer.get(&peer).copied().filter(is_as_old)
        })?;
        let connection = self.by_flow.get_mut(&flow)?;
        if !std::mem::replace(&mut connection.reply_seen, true)
            && let Some(peer) = connection.peer()
        {
            remove_if(&mut self.by_peer, peer, flow);
        }
        if known.is_none() {
            if let Some(before) = connection.reply.replace(event.flow) {
                remove_if(&mut self.by_reply, before, flow);
            }
            self.by_reply.insert(event.flow, flow);
        }
        if connection.acceptor.is_none() && event.task.is_some() {
            connection.acceptor.clone_from(&event.task);
            connection.accepted = event.opened;
        }
        connection.linked_upstream = connection.linked_upstream.or(event.link);
        Some(flow)
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, flow: u64) -> Option<Box<Connection>> {
        let connection = self.by_flow.remove(&flow)?;
        self.tenants.remove(connection.tenant, connection.serial, connection.charged);
        if let Some(sidecar) = connection.sidecar
            && let Entry::Occupied(mut entry) = self.dialed.entry((sidecar.netns, connection.remote))
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
        if let Some(reply) = connection.reply {
            remove_if(&mut self.by_reply, reply, flow);
        }
        if let Some(peer) = connection.peer().filter(|_| !connection.reply_seen) {
            remove_if(&mut self.by_peer, peer, flow);
        }
        Some(connection)
    }

    /// The time of the first event of the oldest connection, which may be gone.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.ages.oldest()
    }

    /// Takes the oldest connection out of the order of age and returns its flow, unless it is gone.
    pub(super) fn pop_oldest(&mut self) -> Option<u64> {
        let (flow, serial) = self.ages.pop()?;
        self.get(flow).is_some_and(|connection| connection.serial == serial).then_some(flow)
    }

    /// Charges a connection for the memory that it takes now.
    pub(super) fn charge(&mut self, flow: u64) {
        let Some(connection) = self.by_flow.get_mut(&flow) else { return };
        let now = connection.bytes();
        let before = std::mem::replace(&mut connection.charged, now);
        self.tenants.reweigh(connection.tenant, before, now);
    }

    /// The memory that all connections take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.tenants.weight()
    }

    /// The oldest connection of the pod whose connections take most memory.
    pub(super) fn first_to_go(&self) -> Option<u64> {
        self.tenants.first_to_go()
    }

    /// All connections, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.by_flow.values().map(Box::as_ref)
    }

    /// How many connections there are.
    pub(super) fn len(&self) -> usize {
        self.by_flow.len()
    }
}

/// Maps `key` to `flow`, unless it is mapped to a flow that `keeps` it.
fn insert_unless<K: Hash + Eq, S: BuildHasher>(
    index: &mut std::collections::HashMap<K, u64, S>,
    key: K,
    flow: u64,
    keeps: impl Fn(u64) -> bool,
) {
    match index.entry(key) {
        Entry::Occupied(entry) if keeps(*entry.get()) => {}
        Entry::Occupied(mut entry) => {
            entry.insert(flow);
        }
        Entry::Vacant(entry) => {
            entry.insert(flow);
        }
    }
}

/// Removes `key` if it is mapped to `flow`.
fn remove_if<K: Hash + Eq, S: BuildHasher>(
    index: &mut std::collections::HashMap<K, u64, S>,
    key: K,
    flow: u64,
) {
    if let Entry::Occupied(entry) = index.entry(key)
        && *entry.get() == flow
    {
        entry.remove();
    }
}
