//! Granted tunnels whose three sockets are known. For an established tunnel, only its three flows are kept: a node may
//! have very many, and their later traffic must not be taken for new requests.

use foldhash::HashMap;

use super::expiry::AgeQueue;

#[derive(Default)]
pub(super) struct Tunnels {
    /// From each flow of a tunnel to the next one, and from the last to the first.
    next: HashMap<u64, u64>,
    /// One flow of each tunnel, by when it was granted.
    ages: AgeQueue<u64>,
}

/// A tunnel's flows: the app's, the sidecar's accepted socket, the sidecar's upstream socket.
pub(super) type TunnelFlows = [u64; FLOWS];
const FLOWS: usize = 3;

impl Tunnels {
    /// Adds a tunnel that was granted at `time`. A tunnel that shares a flow with it is removed.
    pub(super) fn add(&mut self, time: u64, flows: TunnelFlows) {
        let [app, reply, upstream] = flows;
        for flow in flows {
            self.remove(flow);
        }
        for (flow, next) in [(app, reply), (reply, upstream), (upstream, app)] {
            self.next.insert(flow, next);
        }
        let live = self.len();
        let Self { next, ages } = self;
        ages.push(time, reply, live, |flow| next.contains_key(flow));
    }

    /// Whether a tunnel has this flow.
    pub(super) fn contains(&self, flow: u64) -> bool {
        self.next.contains_key(&flow)
    }

    /// Removes the tunnel that has this flow.
    pub(super) fn remove(&mut self, mut flow: u64) {
        while let Some(next) = self.next.remove(&flow) {
            flow = next;
        }
    }

    /// When the tunnel was granted that [`Self::remove_oldest`] removes.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.ages.oldest()
    }

    /// Removes the oldest tunnel, unless it is gone already.
    pub(super) fn remove_oldest(&mut self) {
        if let Some(flow) = self.ages.pop() {
            self.remove(flow);
        }
    }

    /// How many tunnels there are.
    pub(super) fn len(&self) -> usize {
        self.next.len() / FLOWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(tunnels: &Tunnels) -> Vec<u64> {
        (1..=9).filter(|&flow| tunnels.contains(flow)).collect()
    }

    #[test]
    fn removing_any_flow_removes_its_tunnel() {
        let mut tunnels = Tunnels::default();
        tunnels.add(10, [1, 2, 3]);
        tunnels.add(20, [4, 5, 6]);
        tunnels.add(30, [7, 8, 9]);
        tunnels.remove(6);
        assert_eq!((flows(&tunnels), tunnels.len(), tunnels.oldest()), (vec![1, 2, 3, 7, 8, 9], 2, Some(10)));
        tunnels.remove_oldest();
        tunnels.remove_oldest(); // removed before
        assert_eq!((flows(&tunnels), tunnels.oldest()), (vec![7, 8, 9], Some(30)));
    }

    #[test]
    fn a_new_tunnel_replaces_one_that_shares_a_flow() {
        let mut tunnels = Tunnels::default();
        tunnels.add(10, [1, 2, 3]);
        tunnels.add(20, [4, 2, 6]);
        assert_eq!((flows(&tunnels), tunnels.len()), (vec![2, 4, 6], 1));
        tunnels.remove(4);
        assert_eq!((flows(&tunnels), tunnels.len()), (vec![], 0));
    }
}
