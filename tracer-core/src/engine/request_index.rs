//! The requests that wait for an answer, by what they ask and in which network namespace. Those without an upstream
//! socket are apart from those that have one which another session may take over.

use super::{
    connection::Connection,
    namespace_index::NamespaceIndex,
    pending_request::{IndexedIn, PendingRequest},
};

/// How many requests of one pod that ask for the same are looked at. A search must not take longer the more it sends.
const MAX_FOUND: usize = 1_024;

#[derive(Default)]
pub(super) struct RequestIndex {
    unmatched: NamespaceIndex<u64>,
    matched: NamespaceIndex<u64>,
}

impl RequestIndex {
    /// Moves a connection's requests to the parts of the index in which they belong now.
    pub(super) fn update(&mut self, connection: &mut Connection) {
        let unmatched = connection.tunnel.is_none();
        let may_be_swapped = !unmatched && !connection.is_linked();
        let matched = may_be_swapped || connection.pending.iter().any(|request| request.rewritten.is_some());
        let Some(sidecar) = connection.sidecar else { return };
        for request in &mut connection.pending {
            let Some(ticket) = request.ticket else { continue };
            let before = std::mem::replace(&mut request.indexed_in, IndexedIn { unmatched, matched });
            for (before, now, part) in [
                (before.unmatched, unmatched, &mut self.unmatched),
                (before.matched, matched, &mut self.matched),
            ] {
                match (before, now) {
                    (false, true) => part.insert(request.key, sidecar.netns, ticket, connection.flow),
                    (true, false) => part.remove(request.key, sidecar.netns, ticket),
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    /// Removes a request that no longer waits.
    pub(super) fn remove(&mut self, connection: &Connection, request: &PendingRequest) {
        let Some((sidecar, ticket)) = connection.sidecar.zip(request.ticket) else { return };
        if request.indexed_in.unmatched {
            self.unmatched.remove(request.key, sidecar.netns, ticket);
        }
        if request.indexed_in.matched {
            self.matched.remove(request.key, sidecar.netns, ticket);
        }
    }

    /// The flows that wait for this request without an upstream socket that carries them, in this network namespace,
    /// oldest first.
    pub(super) fn unmatched(&self, request_key: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.unmatched.find(request_key, netns).take(MAX_FOUND)
    }

    /// The flows that wait for this request and have an upstream socket which another session may take over, in this
    /// network namespace, oldest first.
    pub(super) fn matched(&self, request_key: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.matched.find(request_key, netns).take(MAX_FOUND)
    }
}
