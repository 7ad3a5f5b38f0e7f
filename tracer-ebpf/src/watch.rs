//! Where requests are under way, and until when: in which namespaces, and to which proxies in them. There, what a sidecar
//! dials and says first may be for one of them. It says "yes" at times where none is, which makes a record that nobody needs,
//! and never "no" where one is.

use core::cell::UnsafeCell;

use tracer_ebpf::branchless::masked;

use crate::{opaque::opaque, peer};

/// How many places there are, a power of two. What shares a place shares the interest.
const PLACES: usize = 1 << 11;
const NOWHERE: [u8; 16] = [0; 16];

/// Times (`CLOCK_MONOTONIC`, ns) until which requests are under way, by the last bits of where.
pub struct Watch(UnsafeCell<[u64; PLACES]>);

// SAFETY: the programs reach into it through raw pointers only, word by word.
unsafe impl Sync for Watch {}

impl Watch {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; PLACES]))
    }

    /// A request goes to this proxy.
    #[inline(always)]
    pub fn begin(&self, netns: u64, addr: [u8; 16], port: u16, until: u64) {
        for number in [of_namespace(netns), peer::number(netns, addr, port)] {
            // SAFETY: an aligned word, of which any value will do.
            unsafe { self.place(number).write_volatile(until) };
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
        // SAFETY: an aligned word.
        let until = unsafe { self.place(number).read_volatile() };
        until != 0 && at() < until
    }

    #[inline(always)]
    fn place(&self, number: u64) -> *mut u64 {
        let places = opaque(self.0.get()).cast_mut();
        let index = masked::<{ PLACES as u64 - 1 }>(number) as usize;
        // SAFETY: within the array, as the index is below PLACES.
        unsafe { places.cast::<u64>().add(index) }
    }
}

#[inline(always)]
fn of_namespace(netns: u64) -> u64 {
    peer::number(netns, NOWHERE, 0)
}
