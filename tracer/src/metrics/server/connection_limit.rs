//! A limit for open connections: a new connection beyond it replaces the one that was idle for longest, so a client that holds
//! idle connections open cannot keep others out.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use tokio::task::AbortHandle;

/// The connections, by their latest sign of life.
pub(super) struct Crowd {
    most: usize,
    clock: Cell<u64>,
    members: RefCell<Members>,
}

#[derive(Default)]
struct Members {
    by_age: BTreeMap<u64, u64>,
    latest: BTreeMap<u64, (u64, AbortHandle)>,
}

impl Crowd {
    pub(super) fn new(most: usize) -> Self {
        Self { most, clock: Cell::default(), members: RefCell::default() }
    }

    /// Makes room for a connection. Returns whether another one was closed for it.
    pub(super) fn make_room(&self) -> bool {
        let mut members = self.members.borrow_mut();
        if members.latest.len() < self.most {
            return false;
        }
        let Some((_, id)) = members.by_age.pop_first() else { return false };
        if let Some((_, task)) = members.latest.remove(&id) {
            task.abort();
        }
        true
    }

    /// A number for a new member.
    pub(super) fn member(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// Comes in.
    pub(super) fn enter(&self, id: u64, task: AbortHandle) {
        let now = self.member();
        let mut members = self.members.borrow_mut();
        members.by_age.insert(now, id);
        members.latest.insert(id, (now, task));
    }

    /// Shows a sign of life: a whole request.
    pub(super) fn active(&self, id: u64) {
        let now = self.member();
        let mut members = self.members.borrow_mut();
        let Members { by_age, latest } = &mut *members;
        if let Some((then, _)) = latest.get_mut(&id) {
            by_age.remove(then);
            by_age.insert(now, id);
            *then = now;
        }
    }

    /// Goes.
    pub(super) fn leave(&self, id: u64) {
        let mut members = self.members.borrow_mut();
        if let Some((then, _)) = members.latest.remove(&id) {
            members.by_age.remove(&then);
        }
    }
}
