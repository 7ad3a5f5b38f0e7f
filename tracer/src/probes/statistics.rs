//! What the kernel tells of its own programs and maps: how long they ran, how full they are. It reads; it changes
//! nothing.

use std::{
    ffi::c_long,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
};

use anyhow::Context as _;
use aya::{
    maps::{Map, MapFd, MapInfo},
    sys::{Stats, enable_stats},
};

use super::Probes;

/// `BPF_MAP_GET_NEXT_KEY`: <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/bpf.h#L973>.
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

    /// Name and capacity of each map that holds entries.
    pub fn map_capacities(&self) -> Vec<(String, u32)> {
        self.hashes().map(|(name, info, _)| (name, info.max_entries())).collect()
    }

    /// Begins to count the entries of these maps, beside the caller. `None`: there is no thread to be had.
    pub fn sweep(&self) -> Option<Sweep> {
        let maps: Vec<_> = self
            .hashes()
            .filter_map(|(name, info, map)| {
                Some((name, info.key_size(), info.max_entries(), map.as_fd().try_clone_to_owned().ok()?))
            })
            .collect();
        let (to, from) = channel();
        let count = move || {
            let counts = maps.iter().map(|(name, key, most, map)| (name.clone(), entries(map, *key, *most)));
            // Nobody listens any more at the end of the process.
            let _ = to.send(counts.collect());
        };
        thread::Builder::new().name("map-sweep".to_owned()).spawn(count).ok()?;
        Some(Sweep(from))
    }

    fn hashes(&self) -> impl Iterator<Item = (String, MapInfo, &MapFd)> {
        self.ebpf.maps().filter_map(|(name, map)| {
            // The others are arrays, which are full by nature, and the ring.
            let (Map::HashMap(data) | Map::LruHashMap(data)) = map else { return None };
            Some((name.to_owned(), data.info().ok()?, data.fd()))
        })
    }
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

/// A count of maps' entries under way.
#[derive(Debug)]
pub struct Sweep(Receiver<Vec<(String, u32)>>);

impl Sweep {
    /// Name and entries of each map, once it is done; empty where it was not completed.
    pub fn take(&mut self) -> Option<Vec<(String, u32)>> {
        match self.0.try_recv() {
            Ok(counts) => Some(counts),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Vec::new()),
        }
    }
}

/// Walks the keys. A key that falls out meanwhile makes the kernel begin anew, so the walk has a bound.
fn entries(map: &OwnedFd, key_size: u32, most: u32) -> u32 {
    #[repr(C)]
    struct Attributes {
        map: u32,
        zero: u32,
        key: u64,
        next: u64,
    }
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    let Ok(map) = u32::try_from(map.as_raw_fd()) else { return 0 };
    for count in 0..most {
        let key_at = if count == 0 { 0 } else { key.as_ptr() as u64 };
        let attributes = Attributes { map, zero: 0, key: key_at, next: next.as_mut_ptr() as u64 };
        // SAFETY: the kernel reads `size_of::<Attributes>()` bytes, which is the beginning of its `bpf_attr` for this
        // command, reads `key_size` bytes at `key` and writes as many at `next`; both buffers are that long and alive.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                GET_NEXT_KEY,
                std::ptr::from_ref(&attributes),
                size_of::<Attributes>(),
            )
        };
        if result != 0 {
            return count;
        }
        std::mem::swap(&mut key, &mut next);
    }
    most
}
