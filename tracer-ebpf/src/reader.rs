//! The state of the ring's reader: one word that the reader and the programs share (the map `READER`). Waking the reader
//! costs far more than a program does, so the programs wake it only where it sleeps, and once.
//!
//! No wake-up is lost: the programs read the word after they submit a record, and the reader looks for records after it
//! writes the word.

/// The reader reads, or is about to.
pub const AWAKE: u32 = 0;
/// The reader sleeps until its timer fires; the programs wake it earlier only where the ring fills up.
pub const TIMED_SLEEP: u32 = 1;
/// The reader sleeps until a record that settles a session wakes it, or the ring fills up.
pub const ASLEEP: u32 = 2;
