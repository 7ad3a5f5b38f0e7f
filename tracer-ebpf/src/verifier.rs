//! Code shaped for the verifier. It follows both sides of every branch through all the code behind it, so values are computed
//! without branches here, and facts that would make it (or LLVM) split paths are hidden. LLVM turns branch-free source back
//! into branches, so the key instructions are inline assembly.

#[cfg(target_arch = "bpf")]
use core::{arch::asm, sync::atomic::AtomicU64};

/// 1 if `number` is 0, else 0.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn is_zero(number: u64) -> u64 {
    let mut is_zero = number;
    // SAFETY: four instructions on two registers. `number | -number` has its highest bit set unless `number` is 0.
    unsafe {
        asm!(
            "{is_zero} = -{is_zero}",
            "{is_zero} |= {number}",
            "{is_zero} >>= 63",
            "{is_zero} ^= 1",
            is_zero = inout(reg) is_zero,
            number = in(reg) number,
            options(pure, nomem, nostack)
        );
    }
    is_zero
}

/// 1 if `number` is 0, else 0: the host's version, for tests.
#[cfg(not(target_arch = "bpf"))]
pub fn is_zero(number: u64) -> u64 {
    u64::from(number == 0)
}

/// 1 if `number`, which must be below 2^63, is 0, else 0. Half the instructions of [`is_zero`].
///
/// It returns a bit and not a mask: a verifier that knows a value to be 0 or -1 forks at each AND with it.
/// <https://elixir.bootlin.com/linux/v7.0/A/ident/maybe_fork_scalars>
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn is_zero63(number: u64) -> u64 {
    let mut is_zero = number.wrapping_sub(1);
    // SAFETY: one instruction on one register.
    unsafe { asm!("{is_zero} >>= 63", is_zero = inout(reg) is_zero, options(pure, nomem, nostack)) };
    is_zero
}

/// 1 if `number`, which must be below 2^63, is 0, else 0: the host's version, for tests.
#[cfg(not(target_arch = "bpf"))]
pub fn is_zero63(number: u64) -> u64 {
    is_zero(number)
}

/// All bits set if the highest bit of `number` is, else 0.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn sign(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register.
    unsafe { asm!("{number} s>>= 63", number = inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// All bits set if the highest bit of `number` is, else 0: the host's version, for tests.
#[cfg(not(target_arch = "bpf"))]
pub fn sign(number: u64) -> u64 {
    (number.cast_signed() >> 63).cast_unsigned()
}

/// The smaller of two numbers below 2^63.
#[inline(always)]
pub fn min(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    b.wrapping_add(difference & sign(difference))
}

/// `number & MASK`, as an instruction that LLVM cannot drop, so that the verifier learns the bound.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn masked<const MASK: u64>(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register.
    unsafe {
        asm!("{number} &= {mask}", number = inout(reg) number, mask = const MASK, options(pure, nomem, nostack))
    };
    number
}

/// `at`, as a pointer into memory that LLVM knows nothing about.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn opaque<T>(mut at: *const T) -> *const T {
    // SAFETY: one instruction that copies a register to itself.
    unsafe { asm!("{at} = {at}", at = inout(reg) at, options(pure, nomem, nostack)) };
    at
}

#[cfg(target_arch = "bpf")]
static ZERO: AtomicU64 = AtomicU64::new(0);

/// The address of a word of the object's own data.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn data_address() -> *const u64 {
    ZERO.as_ptr()
}

/// A zero whose value neither LLVM nor the verifier knows. The verifier tracks constants on the stack, and verifies the rest
/// of a program once per constant where paths differ in nothing else. LLVM turns arrays of constants into a call of `memset`,
/// which is a loop.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn opaque_zero() -> u64 {
    // SAFETY: an aligned word of the object's own data that is never written.
    unsafe { ZERO.as_ptr().read_volatile() }
}

/// A `bool` whose value the verifier does not track. With a plain one it follows the two values through all later code;
/// with this it meets each test anew and verifies the code behind it once.
#[cfg(target_arch = "bpf")]
#[derive(Clone, Copy)]
pub struct OpaqueBool(u64);

#[cfg(target_arch = "bpf")]
impl OpaqueBool {
    /// Hides `value`.
    #[inline(always)]
    pub fn new(value: bool) -> Self {
        Self(u64::from(value) + opaque_zero())
    }

    /// The value.
    #[inline(always)]
    pub fn get(self) -> bool {
        let mut value = self.0;
        // SAFETY: one instruction on one register. The verifier does not infer the operand of a shift from its result, so it
        // does not remember the outcome of the test.
        unsafe { asm!("{value} <<= 1", value = inout(reg) value, options(pure, nomem, nostack)) };
        value != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branch_free_arithmetic_equals_the_branches_it_replaces() {
        for a in [0, 1, 7, 8, 511, u64::MAX >> 1] {
            assert_eq!(is_zero(a), u64::from(a == 0));
            assert_eq!(is_zero63(a), u64::from(a == 0));
            assert_eq!(sign(a), 0);
            for b in [0, 1, 7, 8, 511, u64::MAX >> 1] {
                assert_eq!(min(a, b), a.min(b));
            }
        }
        assert_eq!((is_zero(1 << 63), is_zero(u64::MAX), sign(1 << 63)), (0, 0, u64::MAX));
    }
}
