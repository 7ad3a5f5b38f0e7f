//! Addresses as every record holds them: sixteen bytes in network order.

use crate::opaque::opaque_zero;

/// `::ffff:a.b.c.d` of an address as the kernel holds it, in network order.
#[inline(always)]
pub fn mapped(ip4: u32) -> [u8; 16] {
    let zero = opaque_zero();
    address(zero as u32, zero as u32, u32::from_be(0xffff) | zero as u32, ip4)
}

/// An IPv6 address of four words as the kernel holds them, in network order.
#[inline(always)]
pub fn address(a: u32, b: u32, c: u32, d: u32) -> [u8; 16] {
    let low = u64::from(a) | u64::from(b) << 32;
    let high = u64::from(c) | u64::from(d) << 32;
    bytes_of([low, high])
}

/// Sixteen bytes that are handled as two words: each as one load and one store.
#[inline(always)]
pub fn bytes_of(words: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    bytes
}

/// The other way.
#[inline(always)]
pub fn words_of(bytes: [u8; 16]) -> [u64; 2] {
    // SAFETY: any bytes are a value of two words of the same size together.
    unsafe { core::mem::transmute(bytes) }
}
