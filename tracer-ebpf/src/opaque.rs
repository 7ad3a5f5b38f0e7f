//! What LLVM or the verifier is to know less of than it could: each of them makes the programs worse by what it knows.

use core::{arch::asm, sync::atomic::AtomicU64};

/// The same address. To LLVM it is one of memory of which it knows nothing.
#[inline(always)]
pub fn opaque<T>(mut at: *const T) -> *const T {
    // SAFETY: one instruction on one register, which stays the same.
    unsafe { asm!("{at} = {at}", at = inout(reg) at, options(pure, nomem, nostack)) };
    at
}

static ZERO: AtomicU64 = AtomicU64::new(0);

/// The address of something of the object's own.
#[inline(always)]
pub fn base() -> *const u64 {
    ZERO.as_ptr()
}

/// A zero of which the verifier does not know that it is one. It follows constants on the stack, and looks at all that
/// comes after twice where two paths differ in nothing else.
#[inline(always)]
pub fn opaque_zero() -> u64 {
    // SAFETY: an aligned word of the object's own data, which nobody writes.
    unsafe { ZERO.as_ptr().read_volatile() }
}

/// A truth that the verifier does not know. It would follow both of them through all that comes after; like this, it
/// meets each question anew, and what comes after it once.
#[derive(Clone, Copy)]
pub struct Maybe(u64);

impl Maybe {
    #[inline(always)]
    pub fn new(truth: bool) -> Self {
        Self(u64::from(truth) + opaque_zero())
    }

    /// Of a 1 or a 0 that was calculated of what the verifier does not know.
    #[inline(always)]
    pub fn of_bit(bit: u64) -> Self {
        Self(bit)
    }

    #[inline(always)]
    pub fn is(self) -> bool {
        let mut asked = self.0;
        // SAFETY: one instruction on one register. What is calculated of a number tells nothing of it, so that the answer is not
        // remembered.
        unsafe { asm!("{asked} <<= 1", asked = inout(reg) asked, options(pure, nomem, nostack)) };
        asked != 0
    }
}
