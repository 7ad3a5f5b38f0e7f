//! Which ports have asked a proxy for something, and when. It tells the packets of all others at once, without a look at what is
//! known of their sockets. It says "yes" of ports that have not, which costs time, and never "no" of one that waits.

use core::cell::UnsafeCell;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use tracer_ebpf::branchless::masked;

use crate::opaque::opaque;

/// How many places there are, a power of two. Ports that share a place share the answer.
const PLACES: usize = 1 << 12;
/// In ticks of the kernel's clock, of which a second has 100 to 1000: an hour at least. So long a reader remembers who asked.
const REMEMBERED: u64 = 60 * 60 * 1_000;

/// Ticks at which somebody asked (0: nobody did), by the last bits of his port, as it leaves his network namespace.
pub struct Asked(UnsafeCell<[u64; PLACES]>);

// SAFETY: the programs reach into it through raw pointers only, word by word.
unsafe impl Sync for Asked {}

impl Asked {
    pub const fn new() -> Self {
        Self(UnsafeCell::new([0; PLACES]))
    }

    /// Something is asked from this port.
    #[inline(always)]
    pub fn put(&self, port: u16) {
        // SAFETY: an aligned word, of which any value will do.
        unsafe { self.place(port).write_volatile(now()) };
    }

    /// Was something asked from this port?
    #[inline(always)]
    pub fn has(&self, port: u16) -> bool {
        // SAFETY: an aligned word.
        let at = unsafe { self.place(port).read_volatile() };
        at != 0 && now().wrapping_sub(at) < REMEMBERED
    }

    #[inline(always)]
    fn place(&self, port: u16) -> *mut u64 {
        let places = opaque(self.0.get()).cast_mut();
        let index = masked::<{ PLACES as u64 - 1 }>(port.into()) as usize;
        // SAFETY: within the array, as the index is below PLACES.
        unsafe { places.cast::<u64>().add(index) }
    }
}

/// The verifier puts a load in place of the call: <https://git.kernel.org/torvalds/c/5576b991e9c1a11d2cc21c4b94fc75ec27603896>
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_jiffies64() }
}
