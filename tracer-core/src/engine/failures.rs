//! The failures of sidecars' dials: which sessions they may explain, and for how long.
//!
//! Envoy's pool fails every stream that waits for a connection to a host when one cannot be made, so a session may end by
//! the failure of a socket that was dialed for another:
//! <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/conn_pool/conn_pool_base.cc>

use std::{collections::VecDeque, net::SocketAddr};

use foldhash::HashMap;
use smallvec::SmallVec;

use super::expiry::TtlMap;

/// An upstream socket that ended before it carried a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// When it ended.
    pub(super) time: u64,
    /// Its flow.
    pub(super) flow: u64,
    /// The address dialed.
    pub(super) remote: SocketAddr,
    /// How far it got.
    pub(super) stage: FailureStage,
    /// The accepted socket that it was dialed for. `None`: not known.
    pub(super) link: Option<u64>,
    /// The address that the app of that socket had dialed. `None`: not known when the failure came.
    pub(super) dialed_for: Option<SocketAddr>,
}

/// How far a socket got that never carried a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureStage {
    /// The dial failed.
    Dial,
    /// It was open and carried no byte.
    Open,
    /// It had sent a TLS record, of the sidecar's own or of an app.
    Tls,
}

/// The latest failures, by the sidecar's network namespace. Each is kept for a fixed time from its end.
#[derive(Default)]
pub(super) struct Failures {
    by_netns: HashMap<u64, VecDeque<Failure>>,
    /// Time and network namespace of each, oldest first.
    order: VecDeque<(u64, u64)>,
    /// When accepted sockets ended.
    ended: TtlMap<u64, u64>,
    /// The accepted sockets by the dials that were made for them. A dial may fail before its own record can name it.
    accepted: TtlMap<u64, u64>,
    /// The addresses that apps had dialed, by the accepted socket.
    dialed: TtlMap<u64, SocketAddr>,
}

/// How many failures are looked at for a session. A pod that has more within a deadline gets no verdict that rests on there
/// being none.
const MAX_SEEN: usize = 512;

impl Failures {
    pub(super) fn push(&mut self, netns: u64, failure: Failure) {
        self.by_netns.entry(netns).or_default().push_back(failure);
        self.order.push_back((failure.time, netns));
    }

    /// Records for which accepted socket a dial was made.
    pub(super) fn set_link(&mut self, dialed: u64, reply: u64, time: u64) {
        self.accepted.insert(time, dialed, reply);
    }

    /// Records which address the app had dialed whose connection was accepted with this socket.
    pub(super) fn set_dialed(&mut self, reply: u64, dialed: SocketAddr, time: u64) {
        self.dialed.insert(time, reply, dialed);
    }

    /// The address that the app had dialed for whose connection a failed dial was, if it is known.
    pub(super) fn dialed_for(&self, failure: &Failure) -> Option<SocketAddr> {
        failure.dialed_for.or_else(|| self.dialed.get(&self.link(failure)?).copied())
    }

    /// The accepted socket that a failed dial was for, if it is known.
    pub(super) fn link(&self, failure: &Failure) -> Option<u64> {
        failure.link.or_else(|| self.accepted.get(&failure.flow).copied())
    }

    /// Records that an accepted socket ended: Envoy has handled the failure of the dial for it.
    pub(super) fn set_ended(&mut self, reply: u64, time: u64) {
        self.ended.insert(time, reply, time);
    }

    /// The failures in a network namespace, latest first, and whether each was over when the sidecar accepted a connection
    /// at `since`.
    ///
    /// The kernel knows of a failure before Envoy does, and until Envoy handles it, a new stream still waits for that
    /// connection. It has handled it once it has closed the connection that the dial was for.
    pub(super) fn shared_since(&self, netns: u64, since: u64) -> impl Iterator<Item = (&Failure, bool)> {
        let all = self.by_netns.get(&netns).into_iter().flat_map(|failures| failures.iter().rev());
        all.take(MAX_SEEN).map(move |failure| {
            let handled = self.link(failure).and_then(|reply| self.ended.get(&reply));
            (failure, failure.time < since && handled.is_some_and(|handled| *handled < since))
        })
    }

    /// Whether a network namespace has more failures than are looked at.
    pub(super) fn has_too_many(&self, netns: u64) -> bool {
        self.by_netns.get(&netns).is_some_and(|failures| failures.len() > MAX_SEEN)
    }

    /// Drops failures from before `time`, and the oldest beyond `capacity`. Returns the network namespaces of the latter.
    #[must_use]
    pub(super) fn expire(&mut self, time: u64, capacity: usize) -> Vec<u64> {
        self.ended.expire(time, capacity);
        self.accepted.expire(time, capacity);
        self.dialed.expire(time, capacity);
        let mut crowded_out = Vec::new();
        while let Some(&(failed, netns)) = self.order.front() {
            if failed >= time && self.order.len() <= capacity {
                break;
            }
            if failed >= time {
                crowded_out.push(netns);
            }
            self.order.pop_front();
            let is_empty = self.by_netns.get_mut(&netns).is_some_and(|failures| {
                failures.pop_front();
                failures.is_empty()
            });
            if is_empty {
                self.by_netns.remove(&netns);
            }
        }
        crowded_out
    }
}

/// The addresses that a sidecar was seen to dial for an address that an app had dialed: the endpoints of a Service.
#[derive(Default)]
pub(super) struct Endpoints {
    /// The addresses that apps dialed, by the sidecar's network namespace and the endpoint.
    dialed: TtlMap<(u64, SocketAddr), SmallVec<[SocketAddr; 1]>>,
}

impl Endpoints {
    /// The most addresses that share an endpoint. More tell nothing.
    const MAX_SHARED: usize = 16;

    /// Records that the sidecar in `netns` dialed `endpoint` for a connection of an app to `dialed`.
    pub(super) fn learn(&mut self, time: u64, netns: u64, dialed: SocketAddr, endpoint: SocketAddr) {
        if dialed == endpoint || netns == 0 {
            return;
        }
        let known = self.dialed.get(&(netns, endpoint));
        if known.is_some_and(|known| known.contains(&dialed) || known.len() >= Self::MAX_SHARED) {
            return;
        }
        let mut addresses = known.cloned().unwrap_or_default();
        addresses.push(dialed);
        self.dialed.insert(time, (netns, endpoint), addresses);
    }

    /// Whether `endpoint` is known to serve the address that an app dialed. `None`: it is known for no address.
    pub(super) fn serves(&self, netns: u64, endpoint: SocketAddr, dialed: SocketAddr) -> Option<bool> {
        let served = self.served(netns, endpoint);
        (!served.is_empty()).then(|| served.contains(&dialed))
    }

    /// The addresses that `endpoint` is known to serve.
    pub(super) fn served(&self, netns: u64, endpoint: SocketAddr) -> &[SocketAddr] {
        self.dialed.get(&(netns, endpoint)).map_or(&[], SmallVec::as_slice)
    }

    /// Forgets what was learned before `time`, and the oldest beyond `capacity`.
    pub(super) fn expire(&mut self, time: u64, capacity: usize) {
        self.dialed.expire(time, capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(time: u64, link: Option<u64>) -> Failure {
        let remote = SocketAddr::from(([10, 0, 0, 1], 3128));
        Failure { time, flow: time, remote, stage: FailureStage::Dial, link, dialed_for: None }
    }

    fn times(failures: &Failures, netns: u64, since: u64) -> Vec<u64> {
        let shared = failures.shared_since(netns, since).filter(|(_, is_over)| !is_over);
        shared.map(|(failure, _)| failure.time).collect()
    }

    #[test]
    fn failure_is_found_in_its_own_namespace_until_it_expires() {
        let mut failures = Failures::default();
        for (netns, time) in [(1, 10), (1, 20), (2, 30), (1, 40)] {
            failures.push(netns, failure(time, None));
        }
        assert_eq!(times(&failures, 1, 0), [40, 20, 10]);
        assert_eq!(times(&failures, 2, 0), [30]);
        assert_eq!(times(&failures, 3, 0), [0; 0]);
        assert_eq!(failures.expire(20, 10), [0; 0]);
        assert_eq!(times(&failures, 1, 0), [40, 20]);
        assert_eq!(failures.expire(0, 1), [1, 2]);
        assert_eq!((times(&failures, 1, 0), times(&failures, 2, 0)), (vec![40], vec![]));
    }

    #[test]
    fn failure_is_over_once_the_connection_that_it_was_for_has_ended() {
        let mut failures = Failures::default();
        failures.push(1, failure(10, Some(7)));
        assert_eq!(times(&failures, 1, 20), [10], "not handled yet");
        failures.set_ended(7, 30);
        assert_eq!(times(&failures, 1, 20), [10], "accepted before it was handled");
        assert_eq!(times(&failures, 1, 31), [0; 0], "accepted after it was handled");
        assert_eq!(times(&failures, 1, 5), [10], "accepted before it happened");
    }

    #[test]
    fn endpoint_serves_the_addresses_for_which_it_was_dialed() {
        let [vip, other, endpoint] = [1, 2, 3].map(|last| SocketAddr::from(([10, 0, 0, last], 3128)));
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.serves(1, endpoint, vip), None);
        endpoints.learn(0, 1, vip, endpoint);
        assert_eq!(endpoints.serves(1, endpoint, vip), Some(true));
        assert_eq!(endpoints.serves(1, endpoint, other), Some(false));
        assert_eq!(endpoints.serves(2, endpoint, vip), None, "another pod");
        endpoints.learn(0, 0, vip, endpoint);
        assert_eq!(endpoints.serves(0, endpoint, vip), None, "an unknown namespace");
    }
}
