//! Where requests are under way, and until when: in which namespaces, and to which proxies in them. There, what a sidecar
//! dials and says first may be for one of them. It says "yes" at times where none is, which makes a record that nobody needs,
//! and never "no" where one is.

use crate::{peer, words::Words};

const NOWHERE: [u8; 16] = [0; 16];

/// Times (`CLOCK_MONOTONIC`, ns) until which requests are under way, by where. What shares a word shares the interest.
pub struct Watch(Words);

impl Watch {
    pub const fn new() -> Self {
        Self(Words::new())
    }

    /// A request goes to this proxy.
    #[inline(always)]
    pub fn begin(&self, netns: u64, addr: [u8; 16], port: u16, until: u64) {
        for number in [of_namespace(netns), peer::number(netns, addr, port)] {
            self.0.set(number, until);
        }
    }

    /// Is a request under way in this namespace at this time? Which it is, is asked only where one ever was.
    #[inline(always)]
    pub fn is_in(&self, netns: u64, at: impl FnOnce() -> u64) -> bool {
        self.is_under_way(of_namespace(netns), at)
    }

    /// Is one under way to this proxy?
    #[inline(always)]
    pub fn is_to(&self, netns: u64, addr: [u8; 16], port: u16, at: impl FnOnce() -> u64) -> bool {
        self.is_under_way(peer::number(netns, addr, port), at)
    }

    #[inline(always)]
    fn is_under_way(&self, number: u64, at: impl FnOnce() -> u64) -> bool {
        let until = self.0.get(number);
        until != 0 && at() < until
    }
}

#[inline(always)]
fn of_namespace(netns: u64) -> u64 {
    peer::number(netns, NOWHERE, 0)
}
