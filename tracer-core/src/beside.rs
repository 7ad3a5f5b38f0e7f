//! A hash that puts flows with successive numbers side by side. The kernel numbers sockets as they are made
//! (<https://github.com/torvalds/linux/blob/v6.12/include/linux/cookie.h>), so a session's lie together, and those of
//! sessions that are made one after the other: of a million, the next look-up is mostly one of memory that the last one
//! has fetched. Where a row of them begins is secret all the same: nobody can choose those that lie at the same spot.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FoldHasher, RandomState};

/// So many are together.
const BESIDE: u64 = 64;

/// Hashes for tables whose keys have a flow, and nothing else that differs.
#[derive(Default)]
pub struct Beside(RandomState);

impl BuildHasher for Beside {
    type Hasher = BesideHasher;

    fn build_hasher(&self) -> BesideHasher {
        BesideHasher { row: self.0.build_hasher(), which: 0 }
    }
}

/// As above.
pub struct BesideHasher {
    row: FoldHasher<'static>,
    which: u64,
}

impl Hasher for BesideHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.row.write(bytes);
    }

    fn write_u64(&mut self, flow: u64) {
        self.row.write_u64(flow / BESIDE);
        self.which = flow % BESIDE;
    }

    fn finish(&self) -> u64 {
        // The table's place is in the low bits, and in the high ones what it compares before the key.
        self.row.finish().wrapping_add(self.which) ^ (self.which << 57)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_follow_each_other_lie_side_by_side() {
        let hasher = Beside::default();
        let slot = |flow: u64| hasher.hash_one(flow) % (1 << 20);
        let apart = (0..63).filter(|n| slot(640 + n + 1) != (slot(640 + n) + 1) % (1 << 20)).count();
        assert_eq!(apart, 0);
    }

    #[test]
    fn names_that_are_times_are_spread_all_the_same() {
        let hasher = Beside::default();
        // Where sockets have no cookies: nanoseconds, and the processor in the low bits.
        let slots = (0..6_400_u64).map(|n| hasher.hash_one((n * 1_000) << 8) % 64);
        let mut flows = [0; 64];
        slots.for_each(|slot| flows[usize::try_from(slot).expect("small")] += 1);
        assert!(flows.iter().all(|flows| (30..250).contains(flows)), "{flows:?}");
    }
}
