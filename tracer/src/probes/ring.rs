//! The reader's end of the ring: woken by the kernel when it sleeps. While there is much to read, it is not woken for each
//! record, but comes back by itself a moment later.

use std::{
    io,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Array, Map, MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};
use tracer_ebpf::reader::{ASLEEP, DOZING};

use super::level::Level;
use crate::event::{DecodeError, Event, decode};

/// How long after something was read it looks again: what comes meanwhile is read together. A person does not notice, and
/// a node with a thousand sessions a second has a hundred turns instead of thousands.
const DOZE: Duration = Duration::from_millis(10);

/// The ring of records.
pub struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    level: Level,
    /// Where the programs read what this one does.
    reader: Array<MapData, u32>,
    next: Next,
}

/// What comes before the next look into the ring.
#[derive(Clone, Copy)]
enum Next {
    /// Nothing: there is more in it than was taken.
    Look,
    /// Some time.
    Doze(Instant),
    /// Somebody who wakes it: nothing was in it.
    Sleep,
}

impl Ring {
    /// `records` is the ring, `reader` tells the programs what its reader does.
    pub(super) fn new(records: Map, reader: Map) -> anyhow::Result<Self> {
        let level = Level::of(&records)?;
        let ring = RingBuf::try_from(records).context("RECORDS is not a ring buffer")?;
        let reader = Array::try_from(reader).context("READER is not an array of words")?;
        // SAFETY: the map's descriptor stays open and the same for as long as the `RingBuf` lives, which the
        // `AsyncFd` owns.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.context("cannot wait for the ring")?;
        Ok(Self { records: ring, level, reader, next: Next::Look })
    }

    /// Waits until it is time to read, and puts what there is into `batch`, which has a bound; at times that is nothing.
    pub async fn read(&mut self, batch: &mut Batch) -> io::Result<()> {
        match self.next {
            Next::Look => {}
            Next::Doze(end) => {
                self.tell(DOZING)?;
                // Somebody who wakes it earlier does so because the ring fills up.
                if let Ok(ready) = timeout_at(end, self.records.readable_mut()).await {
                    ready?.clear_ready();
                }
            }
            Next::Sleep => {
                self.tell(ASLEEP)?;
                if self.level.waiting() == 0 {
                    self.records.readable_mut().await?.clear_ready();
                }
            }
        }
        self.read_now(batch);
        Ok(())
    }

    /// Puts what is there into `batch`, also records that were too unimportant to wake anybody.
    pub fn read_now(&mut self, batch: &mut Batch) {
        self.level.look();
        batch.fill(self.records.get_mut());
        self.next = match batch.records.len() {
            0 => Next::Sleep,
            Batch::SIZE => Next::Look,
            _ => Next::Doze(Instant::now() + DOZE),
        };
    }

    /// Tells the programs what this one does next. What they hand in from now on, they do knowing that; what they have handed
    /// in before, whoever looks behind this sees.
    fn tell(&mut self, state: u32) -> io::Result<()> {
        self.reader.set(0, state, 0).map_err(io::Error::other)?;
        fence(Ordering::SeqCst);
        Ok(())
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
