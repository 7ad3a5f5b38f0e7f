//! Words that the programs find by the last bits of a number, without a look at whose it is. Numbers that share a word share
//! what it says.

use core::cell::UnsafeCell;

use tracer_ebpf::branchless::masked;

use crate::opaque::opaque;

/// How many there are, a power of two.
const COUNT: usize = 1 << 12;

/// The words, all 0 to begin with.
pub struct Words(UnsafeCell<[u64; COUNT]>);

// SAFETY: the programs reach into it through raw pointers only, word by word.
unsafe impl Sync for Words {}

impl Words {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; COUNT]))
    }

    /// The word of a number.
    #[inline(always)]
    pub fn get(&self, number: u64) -> u64 {
        // SAFETY: an aligned word.
        unsafe { self.place(number).read_volatile() }
    }

    /// Sets it.
    #[inline(always)]
    pub fn set(&self, number: u64, word: u64) {
        // SAFETY: an aligned word, of which any value will do.
        unsafe { self.place(number).write_volatile(word) };
    }

    #[inline(always)]
    fn place(&self, number: u64) -> *mut u64 {
        let words = opaque(self.0.get()).cast_mut();
        let index = masked::<{ COUNT as u64 - 1 }>(number) as usize;
        // SAFETY: within the array, as the index is below COUNT.
        unsafe { words.cast::<u64>().add(index) }
    }
}
