//! The source ports from which a request to a proxy was sent lately. Packets of all other ports are passed without a flow
//! lookup. False positives cost time; there are no false negatives within an hour.

use super::hashed_array::HashedArray;
use crate::current::jiffies;

/// For how many ticks a port is remembered: an hour at 1000 Hz, the time for which userspace remembers a flow.
const REMEMBERED: u64 = 60 * 60 * 1_000;

/// The tick of the latest request by source port, as seen outside the app's namespace; 0: none.
pub struct RequestPorts(HashedArray);

impl RequestPorts {
    pub const fn new() -> Self {
        Self(HashedArray::new())
    }

    /// Notes a request from this port.
    #[inline(always)]
    pub fn insert(&self, port: u16) {
        self.0.set(port.into(), jiffies());
    }

    /// Whether a request was sent from this port.
    #[inline(always)]
    pub fn contains(&self, port: u16) -> bool {
        let at = self.0.get(port.into());
        at != 0 && jiffies().wrapping_sub(at) < REMEMBERED
    }
}
