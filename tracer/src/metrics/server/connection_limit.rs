//! The open connections, of which there is a maximum: a new one beyond it closes the one that was silent for longest. So
//! clients that merely hold connections open keep no scraper out.

use std::{
    cell::{Cell, RefCell},
    num::NonZeroUsize,
};

use lru::LruCache;
use tokio::task::AbortHandle;

/// The tasks of the open connections, in the order of their latest request.
pub(super) struct ConnectionLimit {
    next_id: Cell<u64>,
    open: RefCell<LruCache<u64, AbortHandle>>,
}

impl ConnectionLimit {
    pub(super) fn new(maximum: NonZeroUsize) -> Self {
        Self { next_id: Cell::default(), open: RefCell::new(LruCache::new(maximum)) }
    }

    /// An id for a new connection.
    pub(super) fn new_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Adds a connection; `true`: another one was closed for it.
    pub(super) fn add(&self, id: u64, task: AbortHandle) -> bool {
        let closed = self.open.borrow_mut().push(id, task);
        closed.inspect(|(_, task)| task.abort()).is_some()
    }

    /// Notes a request.
    pub(super) fn touch(&self, id: u64) {
        self.open.borrow_mut().promote(&id);
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, id: u64) {
        self.open.borrow_mut().pop(&id);
    }
}
