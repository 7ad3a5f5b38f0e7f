//! One end of a connection: its address in the form that records hold (sixteen bytes in network order), and the hash of a
//! namespace, an address and a port, which is a key in the maps.

use tracer_ebpf::verifier::{is_zero, opaque_zero};

use crate::state::globals::settings;

/// Multiplier of Fibonacci hashing: <https://en.wikipedia.org/wiki/Hash_function#Fibonacci_hashing>
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// `::ffff:a.b.c.d` of an IPv4 address in network order.
#[inline(always)]
pub fn mapped(ip4: u32) -> [u8; 16] {
    let zero = opaque_zero();
    address(zero as u32, zero as u32, u32::from_be(0xffff) | zero as u32, ip4)
}

/// An IPv6 address of four words in network order.
#[inline(always)]
pub fn address(a: u32, b: u32, c: u32, d: u32) -> [u8; 16] {
    let low = u64::from(a) | u64::from(b) << 32;
    let high = u64::from(c) | u64::from(d) << 32;
    bytes_of([low, high])
}

/// Sixteen bytes from two words, each of which is one load and one store.
#[inline(always)]
pub fn bytes_of(words: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    bytes
}

/// Two words from sixteen bytes.
#[inline(always)]
pub fn words_of(bytes: [u8; 16]) -> [u64; 2] {
    // SAFETY: the sizes are equal, and any bytes are a valid value of two words.
    unsafe { core::mem::transmute(bytes) }
}

/// Whether an address is `127.0.0.0/8`, in IPv6's notation, or `::1`.
#[inline(always)]
pub fn is_loopback(addr: [u8; 16]) -> bool {
    let [high, low] = words_of(addr);
    let first_five = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
    let v4 = is_zero((low & first_five) ^ u64::from_ne_bytes([0, 0, 0xff, 0xff, 127, 0, 0, 0]));
    let v6 = is_zero(low ^ u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]));
    is_zero(high) & (v4 | v6) != 0
}

/// Whether two addresses are equal.
#[inline(always)]
pub fn is_same(one: [u8; 16], other: [u8; 16]) -> bool {
    let ([high, low], [other_high, other_low]) = (words_of(one), words_of(other));
    is_zero((high ^ other_high) | (low ^ other_low)) != 0
}

/// The hash of an endpoint: 63 bits, keyed with the run's seed, never 0. `netns`: 0 if the endpoint is reached from other
/// namespaces as well, or its namespace is unknown.
#[inline(always)]
pub fn endpoint_hash(netns: u64, addr: [u8; 16], port: u16) -> u64 {
    let [high, low] = words_of(addr);
    let hash = mix(settings().seed, netns);
    let hash = mix(mix(hash, high), low);
    (hash >> 1) + u64::from(port) + 1
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 32)
}
