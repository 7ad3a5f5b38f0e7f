//! The requests that wait for an answer, by what they ask and in which network namespace. Those without an upstream
//! socket are apart from those that have one which another session may take over.

use std::collections::VecDeque;

use foldhash::HashMap;
use smallvec::SmallVec;

use super::connection::{Connection, IndexedIn, PendingRequest};

#[derive(Default)]
pub(super) struct RequestIndex {
    unmatched: WaitingRequests,
    matched: WaitingRequests,
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

    /// The flows that wait for this request without an upstream socket that carries them, in this network namespace or
    /// where either namespace is unknown. Oldest of each namespace first.
    pub(super) fn unmatched(&self, request_key: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.unmatched.find(request_key, netns)
    }

    /// The flows that wait for this request and have an upstream socket which another session may take over, in this
    /// network namespace or where either namespace is unknown. Oldest of each namespace first.
    pub(super) fn matched(&self, request_key: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.matched.find(request_key, netns)
    }
}

/// Waiting requests by their key.
#[derive(Default)]
struct WaitingRequests(HashMap<u64, SmallVec<[NamespaceRequests; 1]>>);

/// The waiting requests of one key in one network namespace.
struct NamespaceRequests {
    /// 0: unknown.
    netns: u64,
    /// Ticket in the queue of deadlines, and flow; oldest first.
    requests: VecDeque<(u64, u64)>,
}

impl WaitingRequests {
    fn insert(&mut self, key: u64, netns: u64, ticket: u64, flow: u64) {
        let namespaces = self.0.entry(key).or_default();
        let known = namespaces.iter().position(|namespace| namespace.netns == netns);
        let at = known.unwrap_or_else(|| {
            namespaces.push(NamespaceRequests { netns, requests: VecDeque::new() });
            namespaces.len() - 1
        });
        let NamespaceRequests { requests, .. } = &mut namespaces[at];
        match requests.back() {
            Some(&(last, _)) if last > ticket => {
                requests.insert(requests.partition_point(|&(other, _)| other < ticket), (ticket, flow));
            }
            Some(_) | None => requests.push_back((ticket, flow)), // the common case
        }
    }

    fn remove(&mut self, key: u64, netns: u64, ticket: u64) {
        let Some(namespaces) = self.0.get_mut(&key) else { return };
        let Some(at) = namespaces.iter().position(|namespace| namespace.netns == netns) else { return };
        let NamespaceRequests { requests, .. } = &mut namespaces[at];
        if let Ok(index) = requests.binary_search_by_key(&ticket, |&(other, _)| other) {
            requests.remove(index);
        }
        if requests.is_empty() {
            namespaces.swap_remove(at);
        }
        if namespaces.is_empty() {
            self.0.remove(&key);
        }
    }

    fn find(&self, key: u64, netns: u64) -> impl Iterator<Item = u64> {
        let namespaces = self.0.get(&key).into_iter().flatten();
        let may_be_same =
            move |other: &&NamespaceRequests| other.netns == netns || other.netns == 0 || netns == 0;
        namespaces.filter(may_be_same).flat_map(|namespace| &namespace.requests).map(|&(_, flow)| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_request_of_a_namespace_comes_first_and_an_unknown_namespace_matches_any() {
        let mut waiting = WaitingRequests::default();
        for (key, netns, ticket, flow) in
            [(1, 7, 0, 70), (1, 7, 2, 72), (1, 7, 1, 71), (1, 8, 3, 83), (1, 0, 4, 4), (2, 7, 5, 75)]
        {
            waiting.insert(key, netns, ticket, flow);
        }
        let find = |waiting: &WaitingRequests, netns| waiting.find(1, netns).collect::<Vec<_>>();
        assert_eq!(find(&waiting, 7), [70, 71, 72, 4]);
        assert_eq!(find(&waiting, 8), [83, 4]);
        assert_eq!(find(&waiting, 9), [4]);
        assert_eq!(find(&waiting, 0), [70, 71, 72, 83, 4]);
        waiting.remove(1, 7, 1);
        waiting.remove(1, 8, 1); // the ticket of another namespace's request
        waiting.remove(1, 0, 4);
        assert_eq!(find(&waiting, 0), [70, 72, 83]);
        for (key, netns, ticket) in [(1, 7, 0), (1, 7, 2), (1, 8, 3), (2, 7, 5)] {
            waiting.remove(key, netns, ticket);
        }
        assert!(waiting.0.is_empty());
    }
}
