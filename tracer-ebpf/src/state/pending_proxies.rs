//! The namespaces in which, and the proxies to which, a request is pending, and until when. Meanwhile, the dials and first
//! bytes of the sidecars there are recorded. False positives cost a record that is not needed; there are no false negatives.

use super::{hashed_array::HashedArray, maps::PENDING_PROXIES};
use crate::endpoint::{bytes_of, endpoint_hash, words_of};

const NO_ADDRESS: [u8; 16] = [0; 16];

/// Times (`CLOCK_MONOTONIC`, ns) until which requests are pending, by the hash of their namespace or proxy.
pub struct PendingProxies(HashedArray);

impl PendingProxies {
    pub const fn new() -> Self {
        Self(HashedArray::new())
    }

    /// Notes a request to this proxy, pending until `until`.
    #[inline(always)]
    pub fn insert(&self, netns: u64, addr: [u8; 16], port: u16, until: u64) {
        for hash in [namespace_hash(netns), endpoint_hash(netns, addr, port)] {
            self.0.set(hash, until);
        }
    }

    /// Whether apps have used this address as a proxy.
    #[inline(always)]
    pub fn is_proxy(&self, addr: [u8; 16], port: u16) -> bool {
        self.0.get(endpoint_hash(0, addr, port)) != 0
    }

    /// Whether a request is pending in this namespace. `at` returns the time, and is called only if there ever was one.
    #[inline(always)]
    pub fn has_namespace(&self, netns: u64, at: impl FnOnce() -> u64) -> bool {
        self.is_pending(namespace_hash(netns), at)
    }

    /// Whether a request is pending to this proxy. `at` returns the time, and is called only if there ever was one.
    #[inline(always)]
    pub fn has_proxy(&self, netns: u64, addr: [u8; 16], port: u16, at: impl FnOnce() -> u64) -> bool {
        self.is_pending(endpoint_hash(netns, addr, port), at)
    }

    #[inline(always)]
    fn is_pending(&self, hash: u64, at: impl FnOnce() -> u64) -> bool {
        let until = self.0.get(hash);
        until != 0 && at() < until
    }
}

/// Notes that apps use this address as a proxy.
#[inline(always)]
pub fn insert_proxy(addr: [u8; 16], port: u16) {
    let [high, low] = words_of(addr);
    egress_insert_proxy(high, low, port.into());
}

/// A global function, which the verifier checks once, and whose values do not take the caller's stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn egress_insert_proxy(high: u64, low: u64, port: u64) -> u64 {
    PENDING_PROXIES.0.set(endpoint_hash(0, bytes_of([high, low]), port as u16), 1);
    0
}

#[inline(always)]
fn namespace_hash(netns: u64) -> u64 {
    endpoint_hash(netns, NO_ADDRESS, 0)
}
