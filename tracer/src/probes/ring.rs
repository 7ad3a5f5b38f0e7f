//! The reader's end of the ring: woken by the kernel when it sleeps. While there is something to read, it is not woken for each
//! record, but comes back by itself a moment later; the busier the node, the longer that is.

use std::{
    io,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use anyhow::Context as _;
use aya::maps::{Array, Map, MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};
use tracer_ebpf::reader::{ASLEEP, AWAKE, TIMED_SLEEP};

use super::{interval::Alarm, ring_usage::Level};
use tracer_core::event::{DecodeError, Event, decode};

/// How long after something was read it looks again: what comes meanwhile is read together. After each of these, `FRUITFUL` looks
/// in a row have found something. A person does not notice, and a node with a thousand sessions a second has ten turns
/// instead of thousands.
const DOZES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(100),
];
const FRUITFUL: usize = 4;

/// How many records are handed on at once.
const AT_ONCE: usize = 512;

/// The ring of records.
pub struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
    level: Level,
    /// Where the programs read what this one does.
    reader: Array<MapData, u32>,
    /// What stands there, as far as this one knows: whoever wakes it writes there, too.
    told: u32,
    alarm: Alarm,
    next: Next,
    /// How many looks in a row have found something.
    fruitful: usize,
    /// How many records the present look has taken.
    taken: usize,
}

/// What comes before the next look into the ring.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing: there is more in it than was taken.
    Look,
    /// Some time.
    Doze,
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
        let records = ring.context("cannot wait for the ring")?;
        let alarm = Alarm::new().context("cannot make a timer")?;
        Ok(Self { records, level, reader, told: AWAKE, alarm, next: Next::Look, fruitful: 0, taken: 0 })
    }

    /// Waits until it is time to read. Nothing is lost where this is dropped half-way.
    pub async fn wait(&mut self) -> io::Result<()> {
        match self.next {
            Next::Look => {}
            Next::Doze => {
                self.alarm.ring_every(DOZES[(self.fruitful / FRUITFUL).min(DOZES.len() - 1)])?;
                self.tell(TIMED_SLEEP)?;
                tokio::select! {
                    biased;
                    // Because the ring fills up.
                    ready = self.records.readable_mut() => {
                        ready?.clear_ready();
                        self.told = AWAKE;
                    }
                    rang = self.alarm.rings() => rang?,
                }
            }
            Next::Sleep => {
                self.alarm.be_silent()?;
                self.tell(ASLEEP)?;
                if self.level.waiting() == 0 {
                    self.records.readable_mut().await?.clear_ready();
                    self.told = AWAKE;
                }
            }
        }
        Ok(())
    }

    /// The next record that is there, in the order in which they were made, also one that was too unimportant to wake anybody.
    /// None ends a look, as some hundred records do.
    pub fn take(&mut self) -> Option<Result<Event, DecodeError>> {
        if self.taken == 0 {
            self.level.look();
        }
        if self.taken < AT_ONCE
            && let Some(record) = self.records.get_mut().next()
        {
            self.taken += 1;
            return Some(decode(&record));
        }
        (self.next, self.fruitful) = match std::mem::take(&mut self.taken) {
            0 => (Next::Sleep, 0),
            AT_ONCE => (Next::Look, self.fruitful),
            _ => (Next::Doze, self.fruitful.saturating_add(1)),
        };
        None
    }

    /// Whether there may be more in it than was taken.
    pub fn has_more(&self) -> bool {
        self.next == Next::Look
    }

    /// Tells the programs what this one does next. What they hand in from now on, they do knowing that; what they have handed
    /// in before, whoever looks behind this sees.
    fn tell(&mut self, state: u32) -> io::Result<()> {
        if self.told != state {
            self.reader.set(0, state, 0).map_err(io::Error::other)?;
            self.told = state;
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// The most bytes that waited to be read since the previous call, and how many the ring can hold.
    pub fn fill(&self) -> (usize, usize) {
        self.level.take()
    }
}
