//! A set-associative cache as the programs use it ([`tracer_ebpf::set_assoc_cache`] is its memory layout). It lies in the
//! object's own data, so it needs no helper call, and lookups have no branches, as the verifier would follow each place.
//!
//! It takes no lock. Two processors that insert into one set within the same few nanoseconds may spoil an entry.
//!
//! `docs/performance.md` compares it with LRU hash maps (`BPF_MAP_TYPE_LRU_HASH`).
//!
//! Socket-local storage (`BPF_MAP_TYPE_SK_STORAGE`) cannot replace it. Its helper takes a pointer to the socket, but an app's
//! request marks the flow of the sidecar's accepted socket, and that socket's `TCP_NODELAY` links the flow of the upstream.
//! Kprobes and raw tracepoints may not call the helper, fentry programs only since 5.11, and the map needs BTF types for its
//! key and value, which aya-ebpf 0.2 does not emit:
//! <https://elixir.bootlin.com/linux/v6.12/A/ident/bpf_sk_storage_get_tracing>,
//! <https://elixir.bootlin.com/linux/v6.12/A/ident/bpf_local_storage_map_alloc_check>

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::{MaybeUninit, size_of},
    sync::atomic::{Ordering, compiler_fence},
};

use tracer_ebpf::{
    set_assoc_cache::{SETS, Set, WAYS, set_of_address, set_of_sequence},
    verifier::{OpaqueBool, is_zero63, masked, opaque},
};

use super::globals::settings;

/// The sort of a cache's keys.
pub trait Keys {
    /// The set of a key before the mask to `SETS`, and the key's tag in that set: below 2^63, and not 0.
    fn place(key: u64) -> (u64, u64);
}

/// Numbers below 2^63 that are not 0; those of one session may be consecutive.
pub struct Sequence;
/// Addresses of kernel structures.
pub struct Addresses;
/// Identities of sockets: cookies, or addresses in the families that read kernel structures.
pub struct Sockets;

impl Keys for Sequence {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        (set_of_sequence(key), key)
    }
}

impl Keys for Addresses {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        let key = opaque(key as *const u8) as u64; // or LLVM computes this for `Sequence` as well
        (set_of_address(key), key >> 3) // addresses are multiples of eight
    }
}

impl Keys for Sockets {
    #[inline(always)]
    fn place(key: u64) -> (u64, u64) {
        if settings().has_cookies() { Sequence::place(key) } else { Addresses::place(key) }
    }
}

/// Entries by key. Each cache has a section, and so a map, of its own: [`tracer_ebpf::set_assoc_cache::SECTION`].
pub struct Cache<K, V>(UnsafeCell<[Set<V>; SETS]>, PhantomData<K>);

// SAFETY: the programs access it through raw pointers only.
unsafe impl<K, V> Sync for Cache<K, V> {}

impl<K: Keys, V: Copy> Cache<K, V> {
    /// `V` must consist of integers, without padding.
    pub const fn new() -> Self {
        // SAFETY: zeros are a valid value of sets of integers.
        Self(unsafe { MaybeUninit::zeroed().assume_init() }, PhantomData)
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<*mut V> {
        self.search(key).get()
    }

    /// The entry of a key, in fewer instructions than [`Self::find`] but with branches: for callers that do little else.
    #[inline(always)]
    pub fn find_branching(&self, key: u64) -> Option<*mut V> {
        let (set, tag) = K::place(key);
        let set = self.set(set);
        let mut place = 0;
        while place < WAYS {
            // SAFETY: see `place_of`.
            if unsafe { (&raw const (*set).keys[place]).read_volatile() } == tag {
                return Some(value(set, place as u64));
            }
            place += 1;
        }
        None
    }

    /// The entry of a key, if any, as one value: for callers that test more than once whether there is one.
    #[inline(always)]
    pub fn look_up(&self, key: u64) -> Lookup<V> {
        let found = self.search(key);
        Lookup { at: found.value, found: OpaqueBool::from_bit(found.is_there) }
    }

    /// The entry of the first of two keys that has one.
    #[inline(always)]
    pub fn look_up_either(&self, first: u64, second: u64) -> Lookup<V> {
        let ((set, tag), (other_set, other_tag)) = (K::place(first), K::place(second));
        let (place, found) = place_of(self.set(set), tag);
        let (other_place, other_found) = place_of(self.set(other_set), other_tag);
        let other = found.wrapping_sub(1); // all bits if the first has none
        let set = self.set(set & !other | other_set & other);
        let place = masked::<{ WAYS as u64 - 1 }>(place & !other | other_place & other);
        Lookup { at: value(set, place), found: OpaqueBool::from_bit(found | other_found) }
    }

    /// Inserts an entry: it replaces the key's older entry, or else the oldest entry of the set.
    #[inline(always)]
    pub fn insert(&self, key: u64, entry: &V) -> *mut V {
        self.insert_with(key, |_| *entry)
    }

    /// Inserts an entry that is computed from the key's older entry, if any. It replaces that one, or else the oldest entry of
    /// the set.
    #[inline(always)]
    pub fn insert_with(&self, key: u64, entry: impl FnOnce(Lookup<V>) -> V) -> *mut V {
        let (set, tag) = K::place(key);
        let set = self.set(set);
        let (place, found) = place_of(set, tag);
        // SAFETY: an aligned word in the set, for which any value is valid.
        let next = unsafe {
            let next = (&raw const (*set).next).read_volatile();
            (&raw mut (*set).next).write_volatile(next.wrapping_add(found ^ 1));
            next
        };
        // Free places are not searched for: with one filled out of turn, `next` would no longer be the oldest.
        let place = masked::<{ WAYS as u64 - 1 }>(place | next & found.wrapping_sub(1));
        let (at, value) = (key_at(set, place), value(set, place));
        write(at, 0); // so that no lookup finds half of it
        let entry = entry(Lookup { at: value, found: OpaqueBool::from_bit(found) });
        // SAFETY: `value` is in the set, and any bytes are a valid `V`.
        unsafe { value.write(entry) };
        write(at, tag);
        value
    }

    /// Removes the entry of a key, if it has one that `condition` holds for.
    #[inline(always)]
    pub fn remove_if(&self, key: u64, condition: impl FnOnce(*const V) -> bool) {
        let found = self.search(key);
        if let Some(value) = found.get()
            && condition(value)
        {
            found.remove();
        }
    }

    /// Searches an entry that the caller may remove.
    #[inline(always)]
    pub fn search(&self, key: u64) -> Found<V> {
        let (set, tag) = K::place(key);
        let set = self.set(set);
        let (place, is_there) = place_of(set, tag);
        Found { value: value(set, place), key: key_at(set, place), is_there }
    }

    #[inline(always)]
    fn set(&self, index: u64) -> *mut Set<V> {
        let sets = opaque(self.0.get()).cast_mut();
        let index = masked::<{ SETS as u64 - 1 }>(index) as usize;
        // SAFETY: within the cache, as the index is below SETS.
        unsafe { sets.cast::<Set<V>>().byte_add(index * size_of::<Set<V>>()) }
    }
}

/// The place of an entry, if there is one.
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

    /// Removes the entry, which must be there.
    #[inline(always)]
    pub fn remove(&self) {
        write(self.key, 0);
    }
}

/// The result of a lookup. Its pointer is valid in any case, so the verifier need not follow two cases.
#[derive(Clone, Copy)]
pub struct Lookup<V> {
    at: *mut V,
    found: OpaqueBool,
}

impl<V> Lookup<V> {
    #[inline(always)]
    pub fn get(&self) -> Option<*mut V> {
        self.found.get().then_some(self.at)
    }
}

/// The place with a tag, and 1; or 0 and 0 if there is none.
#[inline(always)]
fn place_of<V>(set: *const Set<V>, tag: u64) -> (u64, u64) {
    // SAFETY: each key is one aligned word, which other processors write in one store.
    let has = |place: usize| unsafe { is_zero63((&raw const (*set).keys[place]).read_volatile() ^ tag) };
    let (first, second, third, fourth) = (has(0), has(1), has(2), has(3));
    (masked::<{ WAYS as u64 - 1 }>(second | third * 2 | fourth * 3), first | second | third | fourth)
}

/// The value in a place, which must be below [`WAYS`] for the verifier to see.
#[inline(always)]
fn value<V>(set: *mut Set<V>, place: u64) -> *mut V {
    // SAFETY: within the set, as `place` is below WAYS.
    unsafe { (&raw mut (*set).values).cast::<V>().byte_add(place as usize * size_of::<V>()) }
}

/// The key in a place, which must be below [`WAYS`] for the verifier to see.
#[inline(always)]
fn key_at<V>(set: *mut Set<V>, place: u64) -> *mut u64 {
    // SAFETY: within the set, as `place` is below WAYS.
    unsafe { (&raw mut (*set).keys).cast::<u64>().byte_add(place as usize * size_of::<u64>()) }
}

/// Writes a key in a set.
#[inline(always)]
fn write(at: *mut u64, key: u64) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: `at` is an aligned word in a set.
    unsafe { at.write_volatile(key) };
    compiler_fence(Ordering::SeqCst);
}
