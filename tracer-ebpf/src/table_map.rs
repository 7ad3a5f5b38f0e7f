//! A table as the programs use it: finds, puts and takes out, without a branch on which place it is, as the verifier would
//! follow each. It is part of the object's own data, so it is reached without a helper, and is always there. It takes no
//! lock: two processors that put into the same one of its thousands of sets within the same few nanoseconds may spoil one
//! entry.

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::{MaybeUninit, size_of},
    sync::atomic::{Ordering, compiler_fence},
};

use tracer_ebpf::{
    branchless::{is_zero63, masked},
    table::{SETS, Set, WAYS, set_of_address, set_of_number},
};

use crate::{
    maps::settings,
    opaque::{Maybe, opaque},
};

/// What a table's keys are.
pub trait Keys {
    /// Which set a key belongs to, and what it is called there: a number below 2^63 that is not 0.
    fn place(key: u64) -> (u64, u64);
}

/// Numbers below 2^63 that are not 0; those of one session may follow each other.
pub struct Numbers;
/// Addresses in the kernel, of structures.
pub struct Addresses;
/// What tells sockets apart: their cookies, or, in the families that read the kernel's own structures, their addresses.
pub struct Sockets;

impl Keys for Numbers {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        (set_of_number(key), key)
    }
}

impl Keys for Addresses {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        let key = opaque(key as *const u8) as u64; // so that LLVM does not calculate this for `Numbers`, too
        (set_of_address(key), key >> 3) // they are multiples of eight
    }
}

impl Keys for Sockets {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        if settings().has_cookies() { Numbers::place(key) } else { Addresses::place(key) }
    }
}

/// Entries by a key. Each table has a section of its own, and so a map: [`tracer_ebpf::table::SECTION`].
pub struct Table<K, V>(UnsafeCell<[Set<V>; SETS]>, PhantomData<K>);

// SAFETY: the programs reach into it through raw pointers only, word by word.
unsafe impl<K, V> Sync for Table<K, V> {}

impl<K: Keys, V: Copy> Table<K, V> {
    /// `V` must be of integers, without padding.
    pub const fn new() -> Self {
        // SAFETY: zeros are a value of sets of integers.
        Self(unsafe { MaybeUninit::zeroed().assume_init() }, PhantomData)
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<*mut V> {
        self.search(key).get()
    }

    /// The same, in fewer instructions, but with branches: for who asks little else.
    #[inline(always)]
    pub fn seek(&self, key: u64) -> Option<*mut V> {
        let (set, name) = K::place(key);
        let set = self.set(set);
        let mut place = 0;
        while place < WAYS {
            // SAFETY: see `place_of`.
            if unsafe { (&raw const (*set).keys[place]).read_volatile() } == name {
                return Some(value(set, place as u64));
            }
            place += 1;
        }
        None
    }

    /// The same, or no entry, as one value: for whoever asks more than once whether it is there.
    #[inline(always)]
    pub fn look(&self, key: u64) -> Looked<V> {
        let found = self.search(key);
        Looked { at: found.value, found: Maybe::of_bit(found.is_there) }
    }

    /// The entry of the first of two keys that has one.
    #[inline(always)]
    pub fn look_for_either(&self, first: u64, second: u64) -> Looked<V> {
        let ((set, name), (other_set, other_name)) = (K::place(first), K::place(second));
        let (place, found) = place_of(self.set(set), name);
        let (other_place, other_found) = place_of(self.set(other_set), other_name);
        let other = found.wrapping_sub(1); // all bits where the first is not there
        let set = self.set(set & !other | other_set & other);
        let place = masked::<{ WAYS as u64 - 1 }>(place & !other | other_place & other);
        Looked { at: value(set, place), found: Maybe::of_bit(found | other_found) }
    }

    /// Puts a new entry, in place of an older one of the same key or of the set's oldest.
    #[inline(always)]
    pub fn put(&self, key: u64, entry: &V) -> *mut V {
        self.put_over(key, |_| *entry)
    }

    /// The same, where the new entry depends on the older one of the same key.
    #[inline(always)]
    pub fn put_over(&self, key: u64, entry: impl FnOnce(Looked<V>) -> V) -> *mut V {
        let (set, name) = K::place(key);
        let set = self.set(set);
        let (place, found) = place_of(set, name);
        // SAFETY: the set's counter is a number of which any value will do.
        let next = unsafe {
            let next = (&raw const (*set).next).read_volatile();
            (&raw mut (*set).next).write_volatile(next.wrapping_add(found ^ 1));
            next
        };
        // Where it was found, there; else in the next place, whose entry is the oldest. A free one would do as well for this
        // entry, but the next one's would then not be the oldest any more.
        let place = masked::<{ WAYS as u64 - 1 }>(place | next & found.wrapping_sub(1));
        let (at, value) = (key_at(set, place), value(set, place));
        write(at, 0); // nobody finds half of it
        let entry = entry(Looked { at: value, found: Maybe::of_bit(found) });
        // SAFETY: it lies in the set, and any bytes of a `V` are one.
        unsafe { value.write(entry) };
        write(at, name);
        value
    }

    /// Takes an entry out, if it is there and this is what it should be.
    #[inline(always)]
    pub fn take_out_if(&self, key: u64, is_it: impl FnOnce(*const V) -> bool) {
        let found = self.search(key);
        if let Some(value) = found.get()
            && is_it(value)
        {
            found.take_out();
        }
    }

    /// Searches an entry that may be taken out, too.
    #[inline(always)]
    pub fn search(&self, key: u64) -> Found<V> {
        let (set, name) = K::place(key);
        let set = self.set(set);
        let (place, is_there) = place_of(set, name);
        Found { value: value(set, place), key: key_at(set, place), is_there }
    }

    #[inline(always)]
    fn set(&self, index: u64) -> *mut Set<V> {
        let sets = opaque(self.0.get()).cast_mut();
        let index = masked::<{ SETS as u64 - 1 }>(index) as usize;
        // SAFETY: within the table, as the index is below SETS.
        unsafe { sets.cast::<Set<V>>().byte_add(index * size_of::<Set<V>>()) }
    }
}

/// Where an entry is, if it is there.
#[derive(Clone, Copy)]
pub struct Found<V> {
    value: *mut V,
    key: *mut u64,
    /// 1 or 0.
    is_there: u64,
}

impl<V> Found<V> {
    #[inline(always)]
    pub fn get(&self) -> Option<*mut V> {
        (self.is_there != 0).then_some(self.value)
    }

    /// Takes the entry out, which must be there.
    #[inline(always)]
    pub fn take_out(&self) {
        write(self.key, 0);
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

/// Which place has what is called so, and 1; or 0 twice.
#[inline(always)]
fn place_of<V>(set: *const Set<V>, name: u64) -> (u64, u64) {
    // SAFETY: each key is one aligned word, which another processor writes in one store.
    let has = |place: usize| unsafe { is_zero63((&raw const (*set).keys[place]).read_volatile() ^ name) };
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
fn key_at<V>(set: *mut Set<V>, place: u64) -> *mut u64 {
    // SAFETY: within the set, as `place` is below WAYS.
    unsafe { (&raw mut (*set).keys).cast::<u64>().byte_add(place as usize * size_of::<u64>()) }
}

/// Writes a key, which must lie in a set.
#[inline(always)]
fn write(at: *mut u64, key: u64) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: an aligned word within a set.
    unsafe { at.write_volatile(key) };
    compiler_fence(Ordering::SeqCst);
}
