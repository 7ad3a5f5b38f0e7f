//! The memory layout of the kernel side's set-associative caches: an array of sets with [`WAYS`] places each. A key belongs to
//! one set, so a lookup is one array access and a few comparisons, without a helper call, an allocation or a lock. A full set
//! evicts its oldest entry.

/// How many entries a set holds.
pub const WAYS: usize = 4;

/// How many sets a cache has: a power of two.
pub const SETS: usize = 1 << 13;

/// Prefix of the names of the ELF sections that hold caches. Each section becomes an array map of one element.
pub const SECTION: &str = ".bss.";

/// One set. The keys come first, whatever the type of the values, so that userspace can count entries.
#[repr(C)]
pub struct Set<V> {
    /// The key of each place; 0 if it is free.
    pub keys: [u64; WAYS],
    /// Counts insertions; its lowest bits are the place of the next one.
    pub next: u64,
    /// The value of each place.
    pub values: [V; WAYS],
}

/// Multiplier of Fibonacci hashing: <https://en.wikipedia.org/wiki/Hash_function#Fibonacci_hashing>
pub const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The set of a key that is a sequence number, before the mask to [`SETS`]. [`WAYS`] consecutive keys share a set, so the
/// flows of one session, whose cookies are consecutive, share a page.
#[inline(always)]
pub fn set_of_sequence(number: u64) -> u64 {
    number / WAYS as u64
}

/// The set of a key that is a kernel address.
#[inline(always)]
pub fn set_of_address(address: u64) -> u64 {
    address.wrapping_mul(MULTIPLIER) >> (64 - SETS.trailing_zeros())
}

/// How many entries a cache has room for.
#[allow(clippy::cast_possible_truncation, reason = "some ten thousand")]
pub const CAPACITY: u32 = (SETS * WAYS) as u32;

/// How many entries a cache holds, given all of its bytes.
pub fn occupied(cache: &[u8]) -> u32 {
    let sets = cache.chunks_exact(cache.len() / SETS);
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
    fn consecutive_keys_spread_evenly_over_the_sets() {
        // Socket cookies, and addresses of structures of 2,432 bytes.
        let number = |n| set_of_sequence(n);
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
    fn only_places_with_a_key_are_counted() {
        let mut cache = [0; SETS * 48];
        assert_eq!(occupied(&cache), 0);
        (cache[9], cache[31], cache[40]) = (1, 1, 1); // the first set's second and fourth key, and a byte behind the keys
        cache[48 * (SETS - 1)] = 1; // the last set's first key
        assert_eq!(occupied(&cache), 3);
    }
}
