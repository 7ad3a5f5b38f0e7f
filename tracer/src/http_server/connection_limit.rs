//! The open connections of a port, of which there is a maximum. A new one beyond it closes one of the peer that has the most,
//! so a peer with few connections is served however many another one holds open.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
};

use tokio::task::AbortHandle;

/// The tasks of the open connections.
pub struct ConnectionLimit {
    maximum: usize,
    next_id: Cell<u64>,
    /// Counts requests and connections: the order in which connections were last used.
    clock: Cell<u64>,
    open: RefCell<HashMap<u64, Open>>,
}

struct Open {
    peer: IpAddr,
    used: u64,
    task: AbortHandle,
}

impl ConnectionLimit {
    /// At most `maximum` connections.
    pub fn new(maximum: usize) -> Self {
        Self { maximum, next_id: Cell::default(), clock: Cell::default(), open: RefCell::default() }
    }

    /// An id for a new connection.
    pub fn new_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Adds a connection; `true`: another one was closed for it.
    pub fn add(&self, id: u64, peer: IpAddr, task: AbortHandle) -> bool {
        let mut open = self.open.borrow_mut();
        let closed = (open.len() >= self.maximum).then(|| least_entitled(&open)).flatten();
        if let Some(closed) = closed.and_then(|id| open.remove(&id)) {
            closed.task.abort();
        }
        open.insert(id, Open { peer, used: self.now(), task });
        closed.is_some()
    }

    /// Notes a request.
    pub fn touch(&self, id: u64) {
        if let Some(open) = self.open.borrow_mut().get_mut(&id) {
            open.used = self.now();
        }
    }

    /// Removes a connection that has ended.
    pub fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
    }

    fn now(&self) -> u64 {
        self.clock.replace(self.clock.get() + 1)
    }
}

/// Of the peer with the most connections, the one that was silent for longest.
fn least_entitled(open: &HashMap<u64, Open>) -> Option<u64> {
    let mut connections: HashMap<IpAddr, usize> = HashMap::new();
    for Open { peer, .. } in open.values() {
        *connections.entry(*peer).or_default() += 1;
    }
    let rank = |each: &Open| (connections.get(&each.peer).copied(), std::cmp::Reverse(each.used));
    open.iter().max_by_key(|(_, each)| rank(each)).map(|(id, _)| *id)
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
            assert!(limit.open.borrow().contains_key(&quiet));
            assert_eq!(limit.open.borrow().len(), 8);
        });
    }
}
