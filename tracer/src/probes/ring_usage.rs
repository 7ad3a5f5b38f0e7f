//! How full the ring is, read from the two positions that the kernel shares with every reader of a ring:
//! <https://elixir.bootlin.com/linux/v6.12/source/kernel/bpf/ringbuf.c#L32>.

use std::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::Context as _;
use aya::maps::Map;
use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// The positions of the reader (first page) and of the writers (second page), mapped read-only.
pub(super) struct RingUsage {
    pages: NonNull<u8>,
    capacity: usize,
    peak: Cell<usize>,
}

impl RingUsage {
    pub(super) fn of(map: &Map) -> anyhow::Result<Self> {
        let Map::RingBuf(data) = map else { anyhow::bail!("RECORDS is not a ring buffer") };
        let capacity = data.info().context("cannot read the ring's size")?.max_entries() as usize;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else refers to it.
        let pages = unsafe {
            mmap(std::ptr::null_mut(), 2 * page_size(), ProtFlags::READ, MapFlags::SHARED, data.fd(), 0)
        };
        let pages = pages.context("cannot map the ring's positions")?;
        let pages = NonNull::new(pages.cast()).context("the ring's positions are mapped at address 0")?;
        Ok(Self { pages, capacity, peak: Cell::default() })
    }

    /// Bytes that wait to be read now.
    pub(super) fn waiting(&self) -> usize {
        self.position(page_size()).wrapping_sub(self.position(0))
    }

    /// Takes the present number of waiting bytes into the peak.
    pub(super) fn sample(&self) {
        self.peak.set(self.peak.get().max(self.waiting()));
    }

    /// The peak of waiting bytes since the previous call, and the ring's capacity in bytes.
    pub(super) fn take_peak(&self) -> (usize, usize) {
        (self.peak.take(), self.capacity)
    }

    fn position(&self, offset: usize) -> usize {
        // SAFETY: each of the two pages begins with an `unsigned long` that the kernel updates atomically; the mapping
        // lives as long as `self`, and is only read, through an atomic.
        unsafe { self.pages.byte_add(offset).cast::<AtomicUsize>().as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for RingUsage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it. munmap fails only for an address that is not mapped.
        let _ = unsafe { munmap(self.pages.as_ptr().cast(), 2 * page_size()) };
    }
}
