//! The kernel's statistics of our programs and maps: run time, runs, entries.

use std::{
    ffi::c_long,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use aya::{
    maps::{Map, MapInfo},
    sys::{Stats, enable_stats},
};

use super::Probes;

/// `BPF_MAP_GET_NEXT_KEY`:
/// <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L970>.
const GET_NEXT_KEY: c_long = 4;

impl Probes {
    /// Name, seconds and runs of each program that ran. Empty unless the sysctl `kernel.bpf_stats_enabled` is 1, or a
    /// process holds a [`ProgramTiming`]: the kernel counts only then.
    pub fn program_runs(&self) -> Vec<(String, f64, u64)> {
        let info = self.ebpf.programs().filter_map(|(name, program)| Some((name, program.info().ok()?)));
        info.filter(|(_, info)| info.run_count() > 0)
            .map(|(name, info)| (name.to_owned(), info.run_time().as_secs_f64(), info.run_count()))
            .collect()
    }

    /// The maps that hold entries.
    pub fn state_maps(&self) -> StateMaps {
        let maps = self.ebpf.maps().filter_map(|(name, map)| {
            let (Map::HashMap(data) | Map::LruHashMap(data)) = map else { return None };
            let map = data.fd().as_fd().try_clone_to_owned().ok()?;
            Some(StateMap { name: name.to_owned(), info: data.info().ok()?, map })
        });
        StateMaps(maps.collect())
    }
}

/// The maps that hold entries, kept open. Plain arrays and the ring are not among them.
#[derive(Debug)]
pub struct StateMaps(Vec<StateMap>);

#[derive(Debug)]
struct StateMap {
    name: String,
    info: MapInfo,
    map: OwnedFd,
}

impl StateMaps {
    /// Name and capacity of each.
    pub fn capacities(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().map(|StateMap { name, info, .. }| (name.as_str(), info.max_entries()))
    }

    /// Name and number of entries of each. It reads whole maps, which takes some ten milliseconds.
    pub fn count(&self) -> Vec<(String, u32)> {
        let counts = self.0.iter().map(|StateMap { name, info, map }| {
            (name.clone(), count_keys(map, info.key_size(), info.max_entries()))
        });
        counts.collect()
    }
}

/// The kernel times all BPF programs of the node while this exists.
#[derive(Debug)]
pub struct ProgramTiming(
    #[expect(dead_code, reason = "held, never read: the kernel stops when it is closed")] OwnedFd,
);

impl ProgramTiming {
    /// Has the kernel begin.
    pub fn begin() -> anyhow::Result<Self> {
        let fd = enable_stats(Stats::RunTime)
            .context("cannot have the kernel time its programs: this needs Linux 5.8 and CAP_SYS_ADMIN")?;
        Ok(Self(fd))
    }
}

/// Counts the keys of a map by walking them. The walk starts over when its key is evicted meanwhile, so it has a bound.
fn count_keys(map: &OwnedFd, key_size: u32, most: u32) -> u32 {
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    for count in 0..most {
        if !next_key(map, (count > 0).then_some(&key), &mut next) {
            return count;
        }
        std::mem::swap(&mut key, &mut next);
    }
    most
}

/// Has the kernel write the key after `key` into `next`, and returns whether there is one. Both must have the size of the map's
/// keys.
fn next_key(map: &OwnedFd, key: Option<&[u8]>, next: &mut [u8]) -> bool {
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        next: u64,
        flags: u64,
    }
    let Ok(map) = u32::try_from(map.as_raw_fd()) else { return false };
    let key = key.map_or(0, |key| key.as_ptr() as u64);
    let attributes = Attributes { map, zero: 0, key, next: next.as_mut_ptr() as u64, flags: 0 };
    // SAFETY: `Attributes` is a prefix of the kernel's `bpf_attr` for this command, and the kernel is told its size. It reads
    // a key at `key` and writes one to `next`; both buffers are alive and have the size that the caller promises.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, GET_NEXT_KEY, std::ptr::from_ref(&attributes), size_of::<Attributes>())
    };
    result == 0
}
