//! Which ports have asked a proxy for something, and when. It tells the packets of all others at once, without a look at what is
//! known of their sockets. It says "yes" of ports that have not, which costs time, and never "no" of one that waits.

use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::words::Words;

/// In ticks of the kernel's clock, of which a second has 100 to 1000: an hour at least. So long a reader remembers who asked.
const REMEMBERED: u64 = 60 * 60 * 1_000;

/// Ticks at which somebody asked (0: nobody did), by his port as it leaves his network namespace.
pub struct Asked(Words);

impl Asked {
    pub const fn new() -> Self {
        Self(Words::new())
    }

    /// Something is asked from this port.
    #[inline(always)]
    pub fn put(&self, port: u16) {
        self.0.set(port.into(), now());
    }

    /// Was something asked from this port?
    #[inline(always)]
    pub fn has(&self, port: u16) -> bool {
        let at = self.0.get(port.into());
        at != 0 && now().wrapping_sub(at) < REMEMBERED
    }
}

/// The verifier puts a load in place of the call: <https://git.kernel.org/torvalds/c/5576b991e9c1a11d2cc21c4b94fc75ec27603896>
#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_jiffies64() }
}
