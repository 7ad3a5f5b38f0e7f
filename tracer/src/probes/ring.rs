//! The reader of the ring. The kernel wakes an idle reader; a busy one reads in batches by a timer, and the busier the node
//! is, the longer the pauses between batches are.

use std::{
    io,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Array, Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use tracer_ebpf::reader::{ASLEEP, AWAKE, TIMED_SLEEP};

use super::{interval::Interval, ring_usage::RingUsage};
use tracer_core::event::{DecodeError, Event, decode};

/// The pause before the next batch. It gets one step longer after every [`BATCHES_PER_STEP`] batches in a row that had
/// records. A person does not notice the longest one, and it turns thousands of wake-ups a second into ten.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(100),
];
const BATCHES_PER_STEP: usize = 4;

/// The most records of a batch.
const BATCH: usize = 512;

/// The ring of records.
pub struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    usage: RingUsage,
    /// Where the programs read the state of the reader.
    reader: Array<MapData, u32>,
    /// The last state that is known to stand there. A program that wakes the reader also sets it.
    state: u32,
    timer: Interval,
    next: Next,
    /// The number of batches in a row that had records.
    busy_batches: usize,
    /// The number of records that the present batch has given out.
    taken: usize,
}

/// When the next batch is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At once: the batch was full.
    Now,
    /// After a pause.
    Paused,
    /// When a program wakes the reader: the batch was empty.
    Woken,
}

impl Ring {
    /// `records` is the ring; in `reader` the programs read what its reader does.
    pub(super) fn new(records: Map, reader: Map) -> anyhow::Result<Self> {
        let usage = RingUsage::of(&records)?;
        let ring = RingBuf::try_from(records).context("RECORDS is not a ring buffer")?;
        let reader = Array::try_from(reader).context("READER is not an array of words")?;
        // SAFETY: the `AsyncFd` owns the `RingBuf`, so the map's descriptor stays open and unchanged as long as it is
        // registered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let records = ring.context("cannot wait for the ring")?;
        let timer = Interval::new().context("cannot make a timer")?;
        Ok(Self { records, usage, reader, state: AWAKE, timer, next: Next::Now, busy_batches: 0, taken: 0 })
    }

    /// Waits until the next batch is due. Cancel safe.
    pub async fn wait(&mut self) -> io::Result<()> {
        match self.next {
            Next::Now => {}
            Next::Paused => {
                let step = (self.busy_batches / BATCHES_PER_STEP).min(PAUSES.len() - 1);
                self.timer.start(PAUSES[step])?;
                self.publish(TIMED_SLEEP)?;
                tokio::select! {
                    biased;
                    // The ring fills up.
                    ready = self.records.readable_mut() => {
                        ready?.clear_ready();
                        self.state = AWAKE;
                    }
                    tick = self.timer.tick() => tick?,
                }
            }
            Next::Woken => {
                self.timer.stop()?;
                self.publish(ASLEEP)?;
                if self.usage.waiting() == 0 {
                    self.records.readable_mut().await?.clear_ready();
                    self.state = AWAKE;
                }
            }
        }
        Ok(())
    }

    /// The next record of the batch, in the order in which the programs wrote them. `None` ends the batch.
    pub fn take(&mut self) -> Option<Result<Event, DecodeError>> {
        if self.taken == 0 {
            self.usage.sample();
        }
        if self.taken < BATCH
            && let Some(record) = self.records.get_mut().next()
        {
            self.taken += 1;
            return Some(decode(&record));
        }
        (self.next, self.busy_batches) = match std::mem::take(&mut self.taken) {
            0 => (Next::Woken, 0),
            BATCH => (Next::Now, self.busy_batches),
            _ => (Next::Paused, self.busy_batches.saturating_add(1)),
        };
        None
    }

    /// Did the last batch end before the ring was empty?
    pub fn has_more(&self) -> bool {
        self.next == Next::Now
    }

    /// Tells the programs what the reader does next. The fence orders this store before the reader's next look at the
    /// ring: a record that was written without knowledge of the new state is visible to that look.
    fn publish(&mut self, state: u32) -> io::Result<()> {
        if self.state != state {
            self.reader.set(0, state, 0).map_err(io::Error::other)?;
            self.state = state;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// The peak of bytes that waited in the ring since the previous call, and its capacity in bytes.
    pub fn take_peak(&self) -> (usize, usize) {
        self.usage.take_peak()
    }
}
