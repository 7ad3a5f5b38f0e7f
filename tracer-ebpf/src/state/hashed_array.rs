//! An array of words, indexed by the lowest bits of a hash. Hashes that share an index share the word.

use core::cell::UnsafeCell;

use tracer_ebpf::verifier::{masked, opaque};

/// How many words an array has: a power of two.
const COUNT: usize = 1 << 12;

/// An array of words, all 0 at first.
pub struct HashedArray(UnsafeCell<[u64; COUNT]>);

// SAFETY: the programs access it through raw pointers only, one aligned word at a time.
unsafe impl Sync for HashedArray {}

impl HashedArray {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; COUNT]))
    }

    /// The word of a hash.
    #[inline(always)]
    pub fn get(&self, hash: u64) -> u64 {
        // SAFETY: an aligned word.
        unsafe { self.word(hash).read_volatile() }
    }

    /// Sets the word of a hash.
    #[inline(always)]
    pub fn set(&self, hash: u64, word: u64) {
        // SAFETY: an aligned word, for which any value is valid.
        unsafe { self.word(hash).write_volatile(word) };
    }

    #[inline(always)]
    fn word(&self, hash: u64) -> *mut u64 {
        let words = opaque(self.0.get()).cast_mut();
        let index = masked::<{ COUNT as u64 - 1 }>(hash) as usize;
        // SAFETY: within the array, as the index is below COUNT.
        unsafe { words.cast::<u64>().add(index) }
    }
}
