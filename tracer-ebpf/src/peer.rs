//! What names one end of a connection in the tables and in the watch: a number made of a namespace, an address and a port.
//! Two that differ have the same one about as often as a guess at a secret of 62 bits is right.

use tracer_ebpf::table::MULTIPLIER;

use crate::{address::words_of, maps::settings};

/// The number of an end. `netns`: 0 where it is reached from other namespaces, too, or where that is not known.
#[inline(always)]
pub fn number(netns: u64, addr: [u8; 16], port: u16) -> u64 {
    let [high, low] = words_of(addr);
    let number = mix(settings().seed, netns);
    let number = mix(mix(number, high), low);
    // Ports that follow each other make numbers that do, and none has the highest bit: see `table::set_of`.
    (number >> 2) + u64::from(port) + 1
}

#[inline(always)]
fn mix(number: u64, word: u64) -> u64 {
    let product = (number ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 32)
}
