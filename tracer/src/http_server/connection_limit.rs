//! The open connections of a port, of which there is a maximum. A new one beyond it closes one of the peer that has the most,
//! so a peer with few connections is served however many another one holds open.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use tokio::task::AbortHandle;

/// The tasks of the open connections.
pub struct ConnectionLimit {
    maximum: usize,
    next_id: Cell<u64>,
    open: RefCell<Open>,
}

#[derive(Default)]
struct Open {
    connections: HashMap<u64, Connection>,
    /// Connections by peer, in the order in which they were last used.
    by_peer: HashMap<IpAddr, BTreeMap<u64, u64>>,
    /// Counts requests and connections.
    clock: u64,
}

struct Connection {
    peer: IpAddr,
    used: u64,
    task: AbortHandle,
}

impl ConnectionLimit {
    /// At most `maximum` connections.
    pub fn new(maximum: usize) -> Self {
        Self { maximum, next_id: Cell::default(), open: RefCell::default() }
    }

    /// An id for a new connection.
    pub fn new_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Adds a connection; `true`: another one was closed for it.
    pub fn add(&self, id: u64, peer: IpAddr, task: AbortHandle) -> bool {
        let mut open = self.open.borrow_mut();
        let is_full = open.connections.len() >= self.maximum;
        let closed = is_full.then(|| open.least_entitled()).flatten().and_then(|id| open.remove(id));
        if let Some(closed) = &closed {
            closed.task.abort();
        }
        let used = open.use_now(peer, id);
        open.connections.insert(id, Connection { peer, used, task });
        closed.is_some()
    }

    /// Notes a request.
    pub fn touch(&self, id: u64) {
        let mut open = self.open.borrow_mut();
        if let Some(Connection { peer, task, .. }) = open.remove(id) {
            let used = open.use_now(peer, id);
            open.connections.insert(id, Connection { peer, used, task });
        }
    }

    /// Removes a connection that has ended.
    pub fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(id);
    }
}

impl Open {
    fn use_now(&mut self, peer: IpAddr, id: u64) -> u64 {
        self.clock += 1;
        self.by_peer.entry(peer).or_default().insert(self.clock, id);
        self.clock
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Some(of_peer) = self.by_peer.get_mut(&connection.peer) {
            of_peer.remove(&connection.used);
            if of_peer.is_empty() {
                self.by_peer.remove(&connection.peer);
            }
        }
        Some(connection)
    }

    /// Of the peer with the most connections, the one that was silent for longest.
    fn least_entitled(&self) -> Option<u64> {
        let most = self.by_peer.values().max_by_key(|of_peer| of_peer.len())?;
        most.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_with_one_connection_keeps_it_while_another_opens_a_thousand() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let limit = ConnectionLimit::new(8);
            let peer = |last| IpAddr::from([10, 0, 0, last]);
            let task = || tokio::spawn(std::future::pending::<()>()).abort_handle();
            let quiet = limit.new_id();
            limit.add(quiet, peer(1), task());
            for n in 0..1000 {
                assert_eq!(limit.add(limit.new_id(), peer(2), task()), n >= 7);
            }
            let open = limit.open.borrow();
            assert!(open.connections.contains_key(&quiet));
            assert_eq!((open.connections.len(), open.by_peer.values().map(BTreeMap::len).sum()), (8, 8));
        });
    }
}
