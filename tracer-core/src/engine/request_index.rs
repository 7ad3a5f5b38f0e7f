//! The requests that wait for an answer, by what they ask and in whose network namespace: apart those that a socket of
//! the sidecar's may still be found for, and those that have one which they may exchange. It knows no sockets.

use std::collections::VecDeque;

use foldhash::HashMap;
use smallvec::SmallVec;

use crate::connection::{Asked, Connection, Lies};

#[derive(Default)]
pub(super) struct Lines {
    open: Waiting,
    served: Waiting,
}

impl Lines {
    /// Puts a connection's requests where they belong by now.
    pub(super) fn put(&mut self, connection: &mut Connection) {
        let open = connection.tunnel.is_none();
        let may_be_exchanged = !open && !connection.is_linked();
        let served = may_be_exchanged || connection.pending.iter().any(|asked| asked.rewritten.is_some());
        let Some(sidecar) = connection.sidecar else { return };
        for asked in &mut connection.pending {
            let Some(place) = asked.place else { continue };
            let before = std::mem::replace(&mut asked.lies, Lies { open, served });
            for (before, now, map) in
                [(before.open, open, &mut self.open), (before.served, served, &mut self.served)]
            {
                match (before, now) {
                    (false, true) => map.insert(asked.line, sidecar.netns, place, connection.flow),
                    (true, false) => map.remove(asked.line, sidecar.netns, place),
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    /// A request waits no longer.
    pub(super) fn take(&mut self, connection: &Connection, asked: &Asked) {
        let Some((sidecar, place)) = connection.sidecar.zip(asked.place) else { return };
        if asked.lies.open {
            self.open.remove(asked.line, sidecar.netns, place);
        }
        if asked.lies.served {
            self.served.remove(asked.line, sidecar.netns, place);
        }
    }

    /// The connections that wait for this, and have no socket that carries them as they are: in the same namespace, or
    /// where either side's is unknown. Oldest of each namespace first.
    pub(super) fn open(&self, line: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.open.find(line, netns)
    }

    /// The connections that wait for this, and have a socket; as above.
    pub(super) fn served(&self, line: u64, netns: u64) -> impl Iterator<Item = u64> {
        self.served.find(line, netns)
    }
}

/// Requests by what they ask.
#[derive(Default)]
struct Waiting(HashMap<u64, SmallVec<[Namespace; 1]>>);

/// What of one namespace asks the same.
struct Namespace {
    /// 0: unknown.
    netns: u64,
    /// Place among all that wait and flow, oldest first.
    requests: VecDeque<(u64, u64)>,
}

impl Waiting {
    fn insert(&mut self, line: u64, netns: u64, place: u64, flow: u64) {
        let namespaces = self.0.entry(line).or_default();
        let known = namespaces.iter().position(|namespace| namespace.netns == netns);
        let at = known.unwrap_or_else(|| {
            namespaces.push(Namespace { netns, requests: VecDeque::new() });
            namespaces.len() - 1
        });
        let Namespace { requests, .. } = &mut namespaces[at];
        // Most come in their order.
        match requests.back() {
            Some(&(last, _)) if last > place => {
                requests.insert(requests.partition_point(|&(other, _)| other < place), (place, flow));
            }
            Some(_) | None => requests.push_back((place, flow)),
        }
    }

    fn remove(&mut self, line: u64, netns: u64, place: u64) {
        let Some(namespaces) = self.0.get_mut(&line) else { return };
        let Some(at) = namespaces.iter().position(|namespace| namespace.netns == netns) else { return };
        let Namespace { requests, .. } = &mut namespaces[at];
        if let Ok(index) = requests.binary_search_by_key(&place, |&(other, _)| other) {
            requests.remove(index);
        }
        if requests.is_empty() {
            namespaces.swap_remove(at);
        }
        if namespaces.is_empty() {
            self.0.remove(&line);
        }
    }

    /// The flows of those that ask this in a namespace, or where either is unknown.
    fn find(&self, line: u64, netns: u64) -> impl Iterator<Item = u64> {
        let namespaces = self.0.get(&line).into_iter().flatten();
        let may_be_same = move |other: &&Namespace| other.netns == netns || other.netns == 0 || netns == 0;
        namespaces.filter(may_be_same).flat_map(|namespace| &namespace.requests).map(|&(_, flow)| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_a_namespace_comes_first_and_an_unknown_one_is_any() {
        let mut waiting = Waiting::default();
        for (line, netns, place, flow) in
            [(1, 7, 0, 70), (1, 7, 2, 72), (1, 7, 1, 71), (1, 8, 3, 83), (1, 0, 4, 4), (2, 7, 5, 75)]
        {
            waiting.insert(line, netns, place, flow);
        }
        let find = |waiting: &Waiting, netns| waiting.find(1, netns).collect::<Vec<_>>();
        assert_eq!(find(&waiting, 7), [70, 71, 72, 4]);
        assert_eq!(find(&waiting, 8), [83, 4]);
        assert_eq!(find(&waiting, 9), [4]);
        assert_eq!(find(&waiting, 0), [70, 71, 72, 83, 4]);
        waiting.remove(1, 7, 1);
        waiting.remove(1, 8, 1); // another's place
        waiting.remove(1, 0, 4);
        assert_eq!(find(&waiting, 0), [70, 72, 83]);
        for (line, netns, place) in [(1, 7, 0), (1, 7, 2), (1, 8, 3), (2, 7, 5)] {
            waiting.remove(line, netns, place);
        }
        assert!(waiting.0.is_empty());
    }
}
