//! What the reader of the ring does at the moment, one word that it and the programs share. Waking it costs the kernel an
//! interrupt to itself, twenty times what a whole program does, so only a reader that sleeps is woken, and only once; one
//! that has just had something to read comes back by itself.
//!
//! No wake-up is lost: the programs look here after a record has been handed in, and the reader looks for records after it
//! has written here.

/// It reads, or is on its way to.
pub const AWAKE: u32 = 0;
/// It comes back in a moment, and earlier only if the ring fills up.
pub const DOZING: u32 = 1;
/// It waits to be woken by a record that settles something, or as the ring fills up.
pub const ASLEEP: u32 = 2;
