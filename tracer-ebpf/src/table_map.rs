//! A table as the programs use it: finds, puts and takes out, without a branch on which place it is, as the verifier would
//! follow each. It is part of the object's own data, so it is reached without a helper, and is always there. It takes no
//! lock: two processors that put into the same one of its thousands of sets within the same few nanoseconds may spoil one
//! entry.

use core::{
    cell::UnsafeCell,
    mem::{MaybeUninit, size_of},
    ptr,
    sync::atomic::{Ordering, compiler_fence},
};

use tracer_ebpf::{
    branchless::{is_zero, masked},
    table::{SETS, Set, WAYS, near_set_of, set_of},
};

use crate::opaque::{Maybe, opaque};

/// Entries by a key that is not 0. Each table has a section of its own, and so a map: [`tracer_ebpf::table::SECTION`].
pub struct Table<V>(UnsafeCell<[Set<V>; SETS]>);

// SAFETY: the programs reach into it through raw pointers only, word by word.
unsafe impl<V> Sync for Table<V> {}

impl<V: Copy> Table<V> {
    /// `V` must be of integers, without padding.
    pub const fn new() -> Self {
        // SAFETY: zeros are a value of sets of integers.
        Self(unsafe { MaybeUninit::zeroed().assume_init() })
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<*mut V> {
        let set = self.set(set_of(key));
        let (place, found) = place_of(set, key);
        (found != 0).then(|| value(set, place))
    }

    /// The same of a key without the highest bit, in fewer instructions, but with branches: for who asks little else.
    #[inline(always)]
    pub fn seek(&self, key: u64) -> Option<*mut V> {
        let set = self.set(near_set_of(key));
        let mut place = 0;
        while place < WAYS {
            // SAFETY: see `place_of`.
            if unsafe { (&raw const (*set).keys[place]).read_volatile() } == key {
                return Some(value(set, place as u64));
            }
            place += 1;
        }
        None
    }

    /// The same, or no entry, as one value: for whoever asks more than once whether it is there.
    #[inline(always)]
    pub fn look(&self, key: u64) -> Looked<V> {
        let set = self.set(set_of(key));
        let (place, found) = place_of(set, key);
        Looked { at: value(set, place), found: Maybe::new(found != 0) }
    }

    /// The entry of the first of two keys that has one.
    #[inline(always)]
    pub fn look_for_either(&self, first: u64, second: u64) -> Looked<V> {
        let (set, other_set) = (set_of(first), set_of(second));
        let (place, found) = place_of(self.set(set), first);
        let (other_place, other_found) = place_of(self.set(other_set), second);
        let other = found.wrapping_sub(1); // all bits where the first is not there
        let set = self.set(set & !other | other_set & other);
        let place = masked::<{ WAYS as u64 - 1 }>(place & !other | other_place & other);
        Looked { at: value(set, place), found: Maybe::new(found | other_found != 0) }
    }

    /// Puts a new entry, in place of an older one of the same key or of the set's oldest.
    #[inline(always)]
    pub fn put(&self, key: u64, entry: &V) -> *mut V {
        self.put_over(key, |_| *entry)
    }

    /// The same, where the new entry depends on the older one of the same key.
    #[inline(always)]
    pub fn put_over(&self, key: u64, entry: impl FnOnce(Looked<V>) -> V) -> *mut V {
        let set = self.set(set_of(key));
        let (place, found) = place_of(set, key);
        // SAFETY: the set's counter is a number of which any value will do.
        let next = unsafe {
            let next = (&raw const (*set).next).read_volatile();
            (&raw mut (*set).next).write_volatile(next.wrapping_add(found ^ 1));
            next
        };
        // Where it was found, there; else in the next place, whose entry is the oldest. A free one would do as well for this
        // entry, but the next one's would then not be the oldest any more.
        let place = masked::<{ WAYS as u64 - 1 }>(place | (next & found.wrapping_sub(1)));
        write_key(set, place, 0); // nobody finds half of it
        let value = value(set, place);
        let entry = entry(Looked { at: value, found: Maybe::new(found != 0) });
        // SAFETY: it lies in the set, and any bytes of a `V` are one.
        unsafe { value.write(entry) };
        write_key(set, place, key);
        value
    }

    /// Takes an entry out, if it is there.
    #[inline(always)]
    pub fn take_out(&self, key: u64) {
        let set = self.set(set_of(key));
        let (place, found) = place_of(set, key);
        if found != 0 {
            write_key(set, place, 0);
        }
    }

    #[inline(always)]
    fn set(&self, index: u64) -> *mut Set<V> {
        let sets = opaque(self.0.get()).cast_mut();
        let index = masked::<{ SETS as u64 - 1 }>(index) as usize;
        // SAFETY: within the table, as the index is below SETS.
        unsafe { sets.cast::<Set<V>>().byte_add(index * size_of::<Set<V>>()) }
    }
}

/// What a look-up found. To the verifier there always is an entry, so that it need not follow what comes after twice.
#[derive(Clone, Copy)]
pub struct Looked<V> {
    at: *mut V,
    found: Maybe,
}

impl<V> Looked<V> {
    #[inline(always)]
    pub fn get(&self) -> Option<*mut V> {
        self.found.is().then_some(self.at)
    }
}

/// Which place has the key, and 1; or 0 twice.
#[inline(always)]
fn place_of<V>(set: *const Set<V>, key: u64) -> (u64, u64) {
    // SAFETY: each key is one aligned word, which another processor writes in one store.
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
