//! The reader's end of the ring: woken by the kernel, never polled.

use anyhow::Context as _;
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::level::Level;
use crate::event::{DecodeError, Event, decode};

/// The ring of records.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    level: Level,
}

impl Ring {
    pub(super) fn new(map: Map) -> anyhow::Result<Self> {
        let level = Level::of(&map)?;
        let ring = RingBuf::try_from(map).context("RECORDS is not a ring buffer")?;
        // SAFETY: the map's descriptor stays open and the same for as long as the `RingBuf` lives, which the
        // `AsyncFd` owns.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.context("cannot wait for the ring")?;
        Ok(Self { ring, level })
    }

    /// Waits until the kernel says that there is something to read, and puts it into `batch`, which has a bound.
    pub async fn read(&mut self, batch: &mut Batch) -> std::io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        self.level.look();
        batch.fill(ready.get_inner_mut());
        // What comes in after this guard was made is not cleared with it.
        if batch.is_full() {
            ready.retain_ready();
        } else {
            ready.clear_ready();
        }
        Ok(())
    }

    /// Puts what is there into `batch`, also records that were too unimportant to wake anybody.
    pub fn read_now(&mut self, batch: &mut Batch) {
        self.level.look();
        batch.fill(self.ring.get_mut());
    }

    /// The most bytes that waited to be read since the previous call, and how many the ring can hold.
    pub fn fill(&self) -> (usize, usize) {
        self.level.take()
    }
}

/// Some records, in the order in which they were made.
#[derive(Default)]
pub struct Batch {
    records: Vec<Result<Event, DecodeError>>,
}

impl Batch {
    /// How many records are handed on at once.
    const SIZE: usize = 512;

    fn fill(&mut self, ring: &mut RingBuf<MapData>) {
        while !self.is_full() {
            let Some(record) = ring.next() else { return };
            self.records.push(decode(&record));
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= Self::SIZE
    }

    /// The time of the last one, where there may be more than these.
    pub fn reaches(&self) -> Option<u64> {
        let last = self.records.iter().rev().find_map(|record| Some(record.as_ref().ok()?.time));
        last.filter(|_| self.is_full())
    }

    /// Takes them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Result<Event, DecodeError>> {
        self.records.drain(..)
    }
}
