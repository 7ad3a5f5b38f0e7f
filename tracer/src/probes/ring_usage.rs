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

/// The positions of the reader (first page) and the writers (second page), mapped read-only.
pub(super) struct Level {
    pages: NonNull<u8>,
    capacity: usize,
    most: Cell<usize>,
}

impl Level {
    pub(super) fn of(map: &Map) -> anyhow::Result<Self> {
        let Map::RingBuf(data) = map else { anyhow::bail!("RECORDS is not a ring buffer") };
        let capacity = data.info().context("cannot ask for the ring's size")?.max_entries() as usize;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let pages = unsafe {
            mmap(std::ptr::null_mut(), 2 * page_size(), ProtFlags::READ, MapFlags::SHARED, data.fd(), 0)
        };
        let pages = pages.context("cannot map the ring's positions")?;
        let pages = NonNull::new(pages.cast()).context("the ring's positions are mapped nowhere")?;
        Ok(Self { pages, capacity, most: Cell::default() })
    }

    /// How many bytes wait now.
    pub(super) fn waiting(&self) -> usize {
        self.position(page_size()).wrapping_sub(self.position(0))
    }

    /// Notes how many they are.
    pub(super) fn look(&self) {
        self.most.set(self.most.get().max(self.waiting()));
    }

    /// The most that was noted since the previous call, and the capacity.
    pub(super) fn take(&self) -> (usize, usize) {
        (self.most.take(), self.capacity)
    }

    fn position(&self, offset: usize) -> usize {
        // SAFETY: each of the two pages begins with an `unsigned long` that the kernel updates atomically; the mapping
        // lives as long as `self`, and is read through an atomic, never written.
        unsafe { self.pages.byte_add(offset).cast::<AtomicUsize>().as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it. It fails only for what is no mapping.
        let _ = unsafe { munmap(self.pages.as_ptr().cast(), 2 * page_size()) };
    }
}
