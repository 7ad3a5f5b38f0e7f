//! Arithmetic in place of branches: the verifier follows both ways of a branch through all that comes after, and old ones
//! see late that they have come together again. LLVM would make branches of it, so what it would know is kept from it.

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// 1 where a number is 0, else 0.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn is_zero(number: u64) -> u64 {
    let mut is_zero = number;
    // SAFETY: four instructions on two registers. Of a number and its negative, one has the highest bit, unless it is 0.
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

/// The same.
#[cfg(not(target_arch = "bpf"))]
pub fn is_zero(number: u64) -> u64 {
    u64::from(number == 0)
}

/// The same of a number below 2^63, in half as many instructions. (It gives a bit, not a mask of all bits: a verifier that knows
/// of a number that it is 0 or -1 looks at all that follows an AND of it twice.)
/// <https://elixir.bootlin.com/linux/v7.0/A/ident/maybe_fork_scalars>
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn is_zero63(number: u64) -> u64 {
    let mut is_zero = number.wrapping_sub(1);
    // SAFETY: one instruction on one register.
    unsafe { asm!("{is_zero} >>= 63", is_zero = inout(reg) is_zero, options(pure, nomem, nostack)) };
    is_zero
}

/// The same.
#[cfg(not(target_arch = "bpf"))]
pub fn is_zero63(number: u64) -> u64 {
    is_zero(number)
}

/// All bits where a number's highest is set, else none.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn sign(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register.
    unsafe { asm!("{number} s>>= 63", number = inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// The same.
#[cfg(not(target_arch = "bpf"))]
pub fn sign(number: u64) -> u64 {
    (number.cast_signed() >> 63).cast_unsigned()
}

/// The lesser of two numbers below 2^63.
#[inline(always)]
pub fn least(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    b.wrapping_add(difference & sign(difference))
}

/// A number that the verifier knows to be at most `MASK`. LLVM knows it, too, and would leave the instruction out.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn masked<const MASK: u64>(mut number: u64) -> u64 {
    // SAFETY: one instruction on one register.
    unsafe {
        asm!("{number} &= {mask}", number = inout(reg) number, mask = const MASK, options(pure, nomem, nostack))
    };
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_branches_would_be() {
        for a in [0, 1, 7, 8, 511, u64::MAX >> 1] {
            assert_eq!(is_zero(a), u64::from(a == 0));
            assert_eq!(sign(a), 0);
            for b in [0, 1, 7, 8, 511, u64::MAX >> 1] {
                assert_eq!(least(a, b), a.min(b));
            }
        }
        assert_eq!((is_zero(1 << 63), is_zero(u64::MAX), sign(1 << 63)), (0, 0, u64::MAX));
    }
}
