//! The running tracer: reads the ring when the kernel says so, feeds the core, and counts. It owns the only mutable
//! state; whoever wants reports is handed them.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    core::{Core, Input, Settings, Stats},
    event::{Event, Role, What},
    probes::{Probes, Ring},
    redact::Redactor,
    report::Report,
};

/// How many records are read before their reports are handed on.
const BATCH: usize = 4096;

/// Probes, ring and core together.
pub struct Tracing {
    probes: Probes,
    ring: Ring,
    redactor: Redactor,
    core: Core,
    tick: Interval,
    counts: Counts,
}

/// What was read from the ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Dials of sidecars.
    pub dials: u64,
    /// Payloads of apps.
    pub requests: u64,
    /// Payloads of sidecars to apps.
    pub replies: u64,
    /// Payloads of sidecars to others.
    pub upstream: u64,
    /// Ends.
    pub ends: u64,
    /// Records that could not be read.
    pub malformed: u64,
}

impl Tracing {
    /// Begins to read what the probes see.
    pub fn new(mut probes: Probes, settings: Settings) -> anyhow::Result<Self> {
        let ring = probes.take_ring()?;
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            probes,
            ring,
            redactor: Redactor::default(),
            core: Core::new(settings),
            tick,
            counts: Counts::default(),
        })
    }

    /// Waits for something to happen and puts the reports that follow from it into `reports`; at times there are none.
    pub async fn next(&mut self, reports: &mut Vec<Report>) -> anyhow::Result<()> {
        tokio::select! {
            readable = self.ring.readable() => readable?,
            _ = self.tick.tick() => {}
        }
        let mut records = 0;
        while let Some(record) = self.ring.next() {
            match record {
                Ok(mut event) => {
                    self.counts.count(&event);
                    self.redactor.redact(&mut event);
                    self.core.feed(Input::Event(Box::new(event)), reports);
                }
                Err(error) => {
                    self.counts.malformed += 1;
                    log::error!("{error}; is another version of the kernel programs loaded?");
                }
            }
            records += 1;
            if records == BATCH {
                return Ok(()); // the rest makes the next call return at once
            }
        }
        self.core.feed(Input::Tick(monotonic()), reports);
        Ok(())
    }

    /// The attached programs.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// What the core holds.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// What was read.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

impl Counts {
    fn count(&mut self, event: &Event) {
        let count = match (&event.what, event.role) {
            (What::Dialed, _) => &mut self.dials,
            (What::Ended(_), _) => &mut self.ends,
            (What::Sent { .. }, Role::App) => &mut self.requests,
            (What::Sent { .. }, Role::Reply) => &mut self.replies,
            (What::Sent { .. }, Role::Upstream) => &mut self.upstream,
        };
        *count += 1;
    }
}

/// `CLOCK_MONOTONIC`, which the records carry, in ns.
fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// What to add to a record's time to have the time of day, in ns.
pub fn clock_offset() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(monotonic())
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
