//! How a table of the kernel side lies in memory: an array of sets, each with a few places. A key can only be in one set,
//! so looking it up is one load of an array and a few compares, and nothing is allocated, locked or freed: it costs a small
//! part of what the kernel's own hash maps do. Where a set is full, what came first gives way.

/// How many entries a set holds. A flow that matters gives way only once as many newer ones had the same set, out of
/// thousands of sets, within the moments that its session takes.
pub const WAYS: usize = 4;

/// How many sets a table has: a power of two.
pub const SETS: usize = 1 << 13;

/// What the names of the sections begin with in which tables lie. Each becomes a map of one element, which holds it whole.
pub const SECTION: &str = ".bss.";

/// One element of a table. The keys come first, whatever it holds, so that userspace can count entries.
#[repr(C)]
pub struct Set<V> {
    /// The key of each place; 0: free.
    pub keys: [u64; WAYS],
    /// Counts newcomers: its lowest bits are the place where the next one goes.
    pub next: u64,
    /// What is in each place.
    pub values: [V; WAYS],
}

/// Spreads numbers. <https://en.wikipedia.org/wiki/Hash_function#Fibonacci_hashing>
pub const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which set a number belongs to, where such numbers follow each other: as many in a row as a set holds belong to one, as the
/// cookies of one session's sockets are. So what is known of them lies on one page of memory.
#[inline(always)]
pub fn set_of_number(number: u64) -> u64 {
    number / WAYS as u64
}

/// Which set an address of the kernel belongs to.
#[inline(always)]
pub fn set_of_address(address: u64) -> u64 {
    address.wrapping_mul(MULTIPLIER) >> (64 - SETS.trailing_zeros())
}

/// How many entries a table has room for.
#[allow(clippy::cast_possible_truncation, reason = "some ten thousand")]
pub const CAPACITY: u32 = (SETS * WAYS) as u32;

/// How many places are taken in a table, of which these are all bytes.
pub fn taken(table: &[u8]) -> u32 {
    let sets = table.chunks_exact(table.len() / SETS);
    let keys = sets.flat_map(|set| set.as_chunks::<8>().0.iter().take(WAYS));
    keys.map(|key| u32::from(*key != [0; 8])).sum()
}

#[cfg(test)]
#[allow(
    clippy::large_stack_arrays,
    clippy::cast_possible_truncation,
    reason = "without std there is no heap"
)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_follow_each_other_spread_evenly() {
        // As sockets' cookies do, and addresses that are 2,432 bytes apart.
        let number = |n| set_of_number(n);
        let address = |n| set_of_address(0xffff_8880_0000_0000 + n * 2_432);
        for set_of in [&number as &dyn Fn(u64) -> u64, &address] {
            let mut counts = [0_u32; SETS];
            for n in 1..=4 * SETS as u64 {
                counts[(set_of(n) % SETS as u64) as usize] += 1;
            }
            assert!(counts.iter().max() <= Some(&7), "{:?}", counts.iter().max());
        }
    }

    #[test]
    fn a_free_place_has_no_key() {
        let mut table = [0; SETS * 48];
        assert_eq!(taken(&table), 0);
        (table[9], table[31], table[40]) = (1, 1, 1); // the first set's second place, its fourth, and no place
        table[48 * (SETS - 1)] = 1; // the last set's first
        assert_eq!(taken(&table), 3);
    }
}
