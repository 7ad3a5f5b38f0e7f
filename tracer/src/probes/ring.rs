//! The reader's end of the ring: woken by the kernel, never polled.

use anyhow::Context as _;
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use crate::event::{DecodeError, Event, decode};

/// The ring of records.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    pub(super) fn new(map: Map) -> anyhow::Result<Self> {
        let ring = RingBuf::try_from(map).context("RECORDS is not a ring buffer")?;
        // SAFETY: the map's descriptor stays open and the same for as long as the `RingBuf` lives, which the
        // `AsyncFd` owns.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.context("cannot wait for the ring")?;
        Ok(Self { ring })
    }

    /// Waits until the kernel says that there is something to read.
    pub async fn readable(&mut self) -> std::io::Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The next record, if there is one.
    pub fn next(&mut self) -> Option<Result<Event, DecodeError>> {
        self.ring.get_mut().next().map(|record| decode(&record))
    }
}
