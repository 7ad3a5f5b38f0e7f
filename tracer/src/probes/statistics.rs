//! What the kernel tells of its own programs and maps: how long they ran, how full they are. It reads; it changes
//! nothing.

use std::{
    ffi::c_long,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::{
    maps::{Map, MapInfo},
    sys::{Stats, enable_stats},
};

use tracer_ebpf::set_assoc_cache::{CAPACITY, SECTION, occupied};

use super::{Probes, give_back_memory};

/// `BPF_MAP_LOOKUP_ELEM`, `BPF_MAP_GET_NEXT_KEY`:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L970>.
const LOOKUP_ELEM: c_long = 1;
const GET_NEXT_KEY: c_long = 4;

impl Probes {
    /// Name, seconds and runs of each program that ran. The kernel counts only while the sysctl
    /// `kernel.bpf_stats_enabled` is 1, or somebody holds a [`Timing`]: without that, nothing is given back.
    pub fn program_runs(&self) -> Vec<(String, f64, u64)> {
        let info = self.ebpf.programs().filter_map(|(name, program)| Some((name, program.info().ok()?)));
        info.filter(|(_, info)| info.run_count() > 0)
            .map(|(name, info)| (name.to_owned(), info.run_time().as_secs_f64(), info.run_count()))
            .collect()
    }

    /// The maps that hold entries. Other arrays are full by nature, and the ring is none.
    pub fn stores(&self) -> Stores {
        let stores = self.ebpf.maps().filter_map(|(name, map)| {
            let (name, sort, data) = match (map, name.strip_prefix(SECTION)) {
                (Map::HashMap(data) | Map::LruHashMap(data), _) => (name, Sort::Hash, data),
                (Map::Array(data), Some(table)) => (table, Sort::Table, data),
                _ => return None,
            };
            let map = data.fd().as_fd().try_clone_to_owned().ok()?;
            Some(Store { name: name.to_owned(), sort, info: data.info().ok()?, map })
        });
        Stores(stores.collect())
    }
}

/// Maps that hold entries. They stay open for as long as this lives.
#[derive(Debug)]
pub struct Stores(Vec<Store>);

#[derive(Debug)]
struct Store {
    name: String,
    sort: Sort,
    info: MapInfo,
    map: OwnedFd,
}

impl Stores {
    /// Name and capacity of each.
    pub fn capacities(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().map(|Store { name, sort, info, .. }| {
            let capacity = match sort {
                Sort::Hash => info.max_entries(),
                Sort::Table => CAPACITY,
            };
            (name.as_str(), capacity)
        })
    }

    /// Name and entries of each. It reads whole tables, which takes some ten milliseconds.
    pub fn count(&self) -> Vec<(String, u32)> {
        let counts = self.0.iter().map(|Store { name, sort, info, map }| {
            let count = match sort {
                Sort::Hash => entries(map, info.key_size(), info.max_entries()),
                Sort::Table => places(map, info.value_size()),
            };
            (name.clone(), count)
        });
        let counts = counts.collect();
        give_back_memory();
        counts
    }
}

/// How a map keeps its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// One of the kernel's own.
    Hash,
    /// A [`set_assoc_cache`](tracer_ebpf::set_assoc_cache).
    Table,
}

/// While it lives, the kernel times all its programs.
#[derive(Debug)]
pub struct Timing(
    #[expect(dead_code, reason = "held, never read: the kernel stops when it is closed")] OwnedFd,
);

impl Timing {
    /// Begins.
    pub fn begin() -> anyhow::Result<Self> {
        let fd = enable_stats(Stats::RunTime)
            .context("cannot have the kernel time its programs: this needs Linux 5.8 and CAP_SYS_ADMIN")?;
        Ok(Self(fd))
    }
}

/// Walks the keys. A key that falls out meanwhile makes the kernel begin anew, so the walk has a bound.
fn entries(map: &OwnedFd, key_size: u32, most: u32) -> u32 {
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    for count in 0..most {
        if !read(map, GET_NEXT_KEY, (count > 0).then_some(&key), &mut next) {
            return count;
        }
        std::mem::swap(&mut key, &mut next);
    }
    most
}

/// Counts the places that are taken in a table.
fn places(map: &OwnedFd, size: u32) -> u32 {
    let mut table = vec![0_u8; size as usize];
    if read(map, LOOKUP_ELEM, Some(&[0; 4]), &mut table) { occupied(&table) } else { 0 }
}

/// Has the kernel write what belongs to `key` into `to`, which must be as long as the map's values, or its keys where the
/// next key is asked for; `key` must be as long as its keys.
fn read(map: &OwnedFd, command: c_long, key: Option<&[u8]>, to: &mut [u8]) -> bool {
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        to: u64,
        flags: u64,
    }
    let Ok(map) = u32::try_from(map.as_raw_fd()) else { return false };
    let key = key.map_or(0, |key| key.as_ptr() as u64);
    let attributes = Attributes { map, zero: 0, key, to: to.as_mut_ptr() as u64, flags: 0 };
    // SAFETY: the kernel reads `size_of::<Attributes>()` bytes, which is the beginning of its `bpf_attr` for these commands,
    // reads a key at `key` and writes to `to`; both buffers are alive, and as long as the caller promises.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(&attributes), size_of::<Attributes>())
    };
    result == 0
}
