//! Entries by key that the kernel evicts when there are too many: LRU hash maps. An entry that is evicted while a program holds
//! a pointer to it may become another key's, so the values carry an id where that matters. The memory itself stays valid, as the
//! kernel allocates all entries when it makes the map:
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/hashtab.c#L425>
//!
//! Socket-local storage (`BPF_MAP_TYPE_SK_STORAGE`) does not fit. Its helper takes a pointer to the socket, but an app's
//! request marks the flow of the sidecar's accepted socket, and that socket's `TCP_NODELAY` links the flow of the upstream.
//! Kprobes and raw tracepoints may not call the helper, fentry programs only since 5.11, and the map needs BTF types for its
//! key and value, which aya-ebpf 0.2 does not emit:
//! <https://elixir.bootlin.com/linux/v6.12/A/ident/bpf_sk_storage_get_tracing>,
//! <https://elixir.bootlin.com/linux/v6.12/A/ident/bpf_local_storage_map_alloc_check>

use aya_ebpf::{bindings::BPF_NOEXIST, maps::LruHashMap};

/// How many entries a cache has room for.
const CAPACITY: u32 = 1 << 15;

/// Entries by a number that is not 0.
#[repr(transparent)]
pub struct Cache<V>(LruHashMap<u64, V>);

impl<V> Cache<V> {
    pub const fn new() -> Self {
        Self(LruHashMap::with_max_entries(CAPACITY, 0))
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn find(&self, key: u64) -> Option<*mut V> {
        self.0.get_ptr_mut(key)
    }

    /// Inserts an entry or replaces the key's older one. `None`: the kernel could not.
    #[inline(always)]
    pub fn insert(&self, key: u64, entry: &V) -> Option<*mut V> {
        self.0.insert(key, entry, 0).ok()?;
        self.find(key)
    }

    /// The entry of a key, which is `entry` if the key had none. Unlike [`Self::insert`] it never replaces what another processor
    /// inserts meanwhile.
    #[inline(always)]
    pub fn find_or_insert(&self, key: u64, entry: &V) -> Option<*mut V> {
        self.find(key).or_else(|| {
            // It fails if there is one by now.
            let _ = self.0.insert(key, entry, BPF_NOEXIST.into());
            self.find(key)
        })
    }

    /// Removes the entry of a key, if it has one.
    #[inline(always)]
    pub fn remove(&self, key: u64) {
        // The kernel's only error is that there is none.
        let _ = self.0.remove(key);
    }
}
