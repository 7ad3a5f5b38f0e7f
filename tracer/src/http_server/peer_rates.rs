//! A rate limit for each peer of a port, so that no peer uses up what another may ask for.

use std::{
    cell::RefCell,
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::token_bucket::TokenBucket;

/// The most peers whose rate is remembered; the one that was silent for longest begins anew.
const PEERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The token buckets of the peers.
pub struct PeerRates {
    period: Duration,
    burst: u32,
    peers: RefCell<LruCache<IpAddr, TokenBucket>>,
}

impl PeerRates {
    /// Allows each peer `burst` events at once, and one more each `period`.
    pub fn new(period: Duration, burst: u32) -> Self {
        Self { period, burst, peers: RefCell::new(LruCache::new(PEERS)) }
    }

    /// Takes a token of this peer at this time; `false`: there is none.
    pub fn take(&self, peer: IpAddr, now: Instant) -> bool {
        let mut peers = self.peers.borrow_mut();
        peers.get_or_insert_mut(peer, || TokenBucket::new(self.period, self.burst, now)).take(now)
    }
}
