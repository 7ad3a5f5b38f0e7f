//! A table as the programs use it: finds, puts and takes out, without a branch on which place it is, as the verifier would
//! follow each. It takes no lock: two processors that put into the same one of its thousands of sets within the same few
//! nanoseconds may spoil one entry.

use core::{
    mem::size_of,
    ptr,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::maps::Array;
use tracer_ebpf::{
    branchless::{is_zero, masked},
    table::{SETS_SHIFT, Set, WAYS, set_of},
};

/// Entries by a key that is not 0.
#[repr(transparent)]
pub struct Table<V>(Array<Set<V>>);

impl<V: Copy> Table<V> {
    pub const fn new() -> Self {
        Self(Array::with_max_entries(1 << SETS_SHIFT, 0))
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<*mut V> {
        let set = self.0.get_ptr_mut(set_of(key))?;
        let (place, found) = place_of(set, key);
        (found != 0).then(|| value(set, place))
    }

    /// Puts a new entry, in place of an older one of the same key or of the set's oldest.
    #[inline(always)]
    pub fn put(&self, key: u64, entry: &V) {
        let Some(set) = self.0.get_ptr_mut(set_of(key)) else { return };
        let (place, found) = place_of(set, key);
        // SAFETY: the set lives in the map. Its counter is a number of which any value will do.
        let next = unsafe {
            let next = (&raw const (*set).next).read_volatile();
            (&raw mut (*set).next).write_volatile(next.wrapping_add(found ^ 1));
            next
        };
        // Where it was found, there; else in the next place.
        let place = masked::<{ WAYS as u64 - 1 }>(place | (next & found.wrapping_sub(1)));
        write_key(set, place, 0); // nobody finds half of it
        // SAFETY: `value` lies in the set, and any bytes of a `V` are one.
        unsafe { value(set, place).write(*entry) };
        write_key(set, place, key);
    }

    /// Takes an entry out, if it is there.
    #[inline(always)]
    pub fn take_out(&self, key: u64) {
        let Some(set) = self.0.get_ptr_mut(set_of(key)) else { return };
        let (place, found) = place_of(set, key);
        if found != 0 {
            write_key(set, place, 0);
        }
    }
}

/// Which place has the key, and 1; or 0 twice.
#[inline(always)]
fn place_of<V>(set: *const Set<V>, key: u64) -> (u64, u64) {
    // SAFETY: the set lives in the map; each key is one aligned word, which another processor writes in one store.
    let has = |place: usize| unsafe { is_zero((&raw const (*set).keys[place]).read_volatile() ^ key) };
    let (first, second, third, fourth) = (has(0), has(1), has(2), has(3));
    (masked::<{ WAYS as u64 - 1 }>(second | third * 2 | fourth * 3), first | second | third | fourth)
}

/// `place` must be below [`WAYS`], and the verifier must see that it is.
#[inline(always)]
fn value<V>(set: *mut Set<V>, place: u64) -> *mut V {
    // SAFETY: within the set, as `place` is below WAYS.
    unsafe { (&raw mut (*set).values).cast::<V>().byte_add(place as usize * size_of::<V>()) }
}

/// As for `value`.
#[inline(always)]
fn write_key<V>(set: *mut Set<V>, place: u64, key: u64) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: an aligned word within the set, as `place` is below WAYS.
    unsafe { ptr::write_volatile((&raw mut (*set).keys).cast::<u64>().add(place as usize), key) };
    compiler_fence(Ordering::SeqCst);
}
