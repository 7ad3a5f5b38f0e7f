//! The tunnels that were granted, and whose sockets are all known. Nothing more is judged of one, so all that is kept is
//! which sockets are its own: a node may have very many, and what they do from then on must not be taken for something new.

use std::collections::HashMap;

use super::ages::Ages;
use crate::beside::Beside;

#[derive(Default)]
pub(super) struct Tunnels {
    /// From each flow of a tunnel to the next one, and from the last to the first: a look at any of them is a look at
    /// sixteen bytes.
    next: HashMap<u64, u64, Beside>,
    /// One flow of each, by when it was granted.
    ages: Ages<u64>,
}

/// A tunnel's flows: the app's, the sidecar's accepted one, and the sidecar's own.
pub(super) type Legs = [u64; LEGS];
const LEGS: usize = 3;

impl Tunnels {
    /// A tunnel was granted at `time`.
    pub(super) fn add(&mut self, time: u64, legs: Legs) {
        let [app, reply, upstream] = legs;
        for flow in legs {
            self.remove(flow); // a flow is in one tunnel
        }
        for (flow, next) in [(app, reply), (reply, upstream), (upstream, app)] {
            self.next.insert(flow, next);
        }
        let tunnels = self.len();
        let Self { next, ages } = self;
        ages.push(time, reply, tunnels, |flow| next.contains_key(flow));
    }

    /// Is this one of a tunnel's flows?
    pub(super) fn contains(&self, flow: u64) -> bool {
        self.next.contains_key(&flow)
    }

    /// The tunnel of this flow is over.
    pub(super) fn remove(&mut self, mut flow: u64) {
        while let Some(next) = self.next.remove(&flow) {
            flow = next;
        }
    }

    /// When the one was granted that [`Self::remove_first`] forgets.
    pub(super) fn first(&self) -> Option<u64> {
        self.ages.first()
    }

    /// Forgets the oldest, if that is still there.
    pub(super) fn remove_first(&mut self) {
        if let Some(flow) = self.ages.pop() {
            self.remove(flow);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.next.len() / LEGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(tunnels: &Tunnels) -> Vec<u64> {
        (1..=9).filter(|&flow| tunnels.contains(flow)).collect()
    }

    #[test]
    fn a_tunnel_goes_with_any_of_its_flows() {
        let mut tunnels = Tunnels::default();
        tunnels.add(10, [1, 2, 3]);
        tunnels.add(20, [4, 5, 6]);
        tunnels.add(30, [7, 8, 9]);
        tunnels.remove(6);
        assert_eq!((known(&tunnels), tunnels.len(), tunnels.first()), (vec![1, 2, 3, 7, 8, 9], 2, Some(10)));
        tunnels.remove_first();
        tunnels.remove_first(); // long gone
        assert_eq!((known(&tunnels), tunnels.first()), (vec![7, 8, 9], Some(30)));
    }

    #[test]
    fn a_flow_is_in_one_tunnel() {
        let mut tunnels = Tunnels::default();
        tunnels.add(10, [1, 2, 3]);
        tunnels.add(20, [4, 2, 6]);
        assert_eq!((known(&tunnels), tunnels.len()), (vec![2, 4, 6], 1));
        tunnels.remove(4);
        assert_eq!((known(&tunnels), tunnels.len()), (vec![], 0));
    }
}
