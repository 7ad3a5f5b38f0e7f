//! The running tracer: reads the ring, feeds the engine with its records, and counts them. It owns the engine; its caller
//! takes the reports.

use std::{collections::HashMap, fs::File, io::BufWriter, sync::Arc, time::Duration};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracer_ebpf::Loss;

use crate::{
    files::OutputFile,
    probes::{Probes, Ring},
    recording::Recorder,
    runtime::{Runtime, Update},
    throttled::Throttled,
};
use tracer_core::{
    engine::{Engine, Input, Settings, Stats},
    event::{Event, EventKind, Role},
    pod::Pod,
    redact::Redactor,
    report::{Gap, LossSource, Reports, rfc3339},
};

/// Probes, ring and engine together.
pub struct Pipeline {
    probes: Probes,
    runtime: Option<Runtime>,
    ring: Ring,
    redactor: Redactor,
    engine: Engine,
    capacity: usize,
    tick: Interval,
    work: Work,
    counts: RecordCounts,
    losses: Losses,
    throttled: Throttled,
    recorder: Option<Recorder<BufWriter<File>>>,
}

/// What [`Pipeline::read`] has to do.
#[derive(Default)]
enum Work {
    #[default]
    None,
    /// Apply an update from the runtime.
    Update(Update),
    /// Read a batch of records.
    Read {
        /// The time of the tick that follows the batch, if one is due.
        tick: Option<u64>,
        /// The time of the latest record of the batch.
        latest: Option<u64>,
    },
}

impl Work {
    fn read(tick: Option<u64>) -> Self {
        Self::Read { tick, latest: None }
    }
}

/// The records that were read from the ring, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordCounts {
    /// Connections that sidecars dialed.
    pub dials: u64,
    /// Payload of apps.
    pub requests: u64,
    /// Payload of sidecars to apps.
    pub replies: u64,
    /// Payload of sidecars to upstreams.
    pub upstream: u64,
    /// Ends of connections.
    pub ends: u64,
    /// Records that could not be decoded.
    pub malformed: u64,
}

impl Pipeline {
    /// A pipeline for attached probes. It writes a recording to `record`, if given.
    pub fn new(
        mut probes: Probes,
        settings: Settings,
        runtime: Option<Runtime>,
        record: Option<&OutputFile>,
    ) -> anyhow::Result<Self> {
        let ring = probes.take_ring()?;
        let kernel_log = probes.take_log()?.run();
        tokio::task::spawn_local(async {
            if let Err(error) = kernel_log.await {
                log::warn!("{error:#}");
            }
        });
        let recorder = record.map(|file| {
            let to = file.create("recording")?;
            Recorder::new(BufWriter::new(to), &settings)
        });
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            probes,
            runtime,
            ring,
            redactor: Redactor::default(),
            capacity: settings.capacity,
            engine: Engine::new(settings),
            tick,
            work: Work::None,
            counts: RecordCounts::default(),
            losses: Losses::default(),
            throttled: Throttled::default(),
            recorder: recorder.transpose()?,
        })
    }

    /// Waits for records, an update or a tick. Before, [`Self::read`] must have returned `false`. Cancel safe.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        // Other tasks have their turn even under constant load.
        if self.ring.has_more() {
            tokio::task::yield_now().await;
        }
        self.work = tokio::select! {
            update = next_update(self.runtime.as_mut()) => Work::Update(update),
            woken = self.ring.wait() => woken.map(|()| Work::read(None)).context("cannot wait for the ring")?,
            _ = self.tick.tick() => Work::read(Some(monotonic())),
        };
        Ok(())
    }

    /// Works until there are reports, and puts them into `reports`. `false`: no work is left.
    pub fn read(&mut self, reports: &mut Reports) -> anyhow::Result<bool> {
        match std::mem::take(&mut self.work) {
            Work::None => return Ok(false),
            Work::Update(update) => self.apply(update, reports)?,
            Work::Read { tick, latest } => self.read_batch(tick, latest, reports)?,
        }
        self.ask_for_owners();
        Ok(!reports.is_empty())
    }

    /// Feeds the engine with records up to the next report. The caller uses and drops that report before the next one is
    /// made, so reports reuse memory that is still in the processor's cache.
    fn read_batch(
        &mut self,
        tick: Option<u64>,
        mut latest: Option<u64>,
        reports: &mut Reports,
    ) -> anyhow::Result<()> {
        while let Some(record) = self.ring.take() {
            match record {
                Ok(mut event) => {
                    latest = Some(event.time);
                    self.counts.count(&event);
                    self.redactor.redact(&mut event);
                    self.feed(Input::Event(event), reports)?;
                }
                Err(error) => {
                    self.counts.malformed += 1;
                    log::error!("{error}; is another version of the kernel programs loaded?");
                }
            }
            if !reports.is_empty() {
                self.work = Work::Read { tick, latest };
                return Ok(());
            }
        }
        if let Some(now) = tick {
            self.notice_losses(now)?;
            // Without it interceptors are still found by what they do.
            if let Err(error) = self.probes.refresh_interceptors(now) {
                log::debug!("{error:#}");
            }
            // While records wait in the ring, time goes on only to the latest record that was read: an answer that waits
            // there is no missed deadline.
            let time = latest.filter(|_| self.ring.has_more()).unwrap_or(now);
            self.feed(Input::Tick(time), reports)?;
            if self.engine.is_behind() {
                // The caller takes these reports before the next ones are made.
                self.work = Work::Read { tick: Some(now), latest };
            }
        }
        Ok(())
    }

    fn feed(&mut self, input: Input, reports: &mut Reports) -> anyhow::Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&input).context("cannot go on writing the recording")?;
        }
        self.engine.feed(input, reports);
        Ok(())
    }

    fn apply(&mut self, update: Update, reports: &mut Reports) -> anyhow::Result<()> {
        let scoped = match update {
            Update::Fact(fact) => return self.feed(Input::Fact(monotonic(), fact), reports),
            Update::Scope { cgroup, traced } => self.probes.set_scope(cgroup, traced),
            Update::Unscope(cgroup) => self.probes.unset_scope(cgroup),
        };
        if let Err(error) = scoped {
            log::error!("{error:#}");
        }
        Ok(())
    }

    /// Whether there is a container runtime that answers.
    pub fn is_runtime_connected(&self) -> bool {
        self.runtime.as_ref().is_some_and(Runtime::is_connected)
    }

    /// Asks the runtime for the owners that the engine needs.
    fn ask_for_owners(&mut self) {
        if let Some(runtime) = &self.runtime {
            runtime.ask(self.engine.take_wanted());
        }
    }

    /// The pods that were forgotten since the previous call: no report names them any more.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.engine.take_gone()
    }

    /// Puts the reports that wait for names into `reports`.
    pub fn release(&mut self, reports: &mut Reports) {
        self.engine.finish(reports);
    }

    /// Compares the loss counters with those of a second ago.
    fn notice_losses(&mut self, now: u64) -> anyhow::Result<()> {
        let mut is_throttled = false;
        for (reason, total) in self.probes.losses()? {
            self.losses.notice(LossSource::Kernel, reason, total);
            is_throttled |= reason == Loss::Throttled.label() && total > 0;
        }
        if is_throttled {
            let Self { engine, throttled, .. } = self;
            throttled.note(self.probes.throttled()?, now, |key| engine.owner(key, now).cloned());
        }
        self.losses.notice(LossSource::Userspace, "malformed", self.counts.malformed);
        let Stats { dropped, untracked, .. } = self.engine.stats();
        self.losses.notice(LossSource::Userspace, "sessions_dropped", dropped);
        self.losses.notice(LossSource::Userspace, "requests_untracked", untracked);
        Ok(())
    }

    /// The losses that were noticed since the previous call. A loss is noticed within a second.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.losses.gaps)
    }

    /// Writes what is buffered of the recording.
    pub fn flush_recording(&mut self) -> anyhow::Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::flush).context("cannot go on writing the recording")
    }

    /// Ends, and completes the recording.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::flush).context("cannot complete the recording")
    }

    /// Whose records the kernel did not write, because there were too many.
    pub fn throttled(&self) -> &Throttled {
        &self.throttled
    }

    /// The attached programs.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// What the engine holds.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// The most connections, and the most upstream sockets, that the engine holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The peak of bytes that waited in the ring since the previous call, and its capacity in bytes.
    pub fn take_ring_peak(&self) -> (usize, usize) {
        self.ring.take_peak()
    }

    /// The records that were read.
    pub fn counts(&self) -> RecordCounts {
        self.counts
    }
}

/// The totals of lost records, and the gaps that were not taken yet.
#[derive(Default)]
struct Losses {
    totals: HashMap<(LossSource, &'static str), u64>,
    gaps: Vec<Gap>,
}

impl Losses {
    fn notice(&mut self, source: LossSource, reason: &'static str, total: u64) {
        let before = self.totals.insert((source, reason), total).unwrap_or_default();
        if total > before {
            self.gaps.push(Gap::new(now(), source, reason, total - before));
        }
    }
}

/// The runtime's next update; pending for ever without a runtime.
async fn next_update(runtime: Option<&mut Runtime>) -> Update {
    match runtime {
        Some(runtime) => runtime.next().await,
        None => std::future::pending().await,
    }
}

impl RecordCounts {
    fn count(&mut self, event: &Event) {
        let count = match (&event.kind, event.role) {
            (EventKind::Dialed, _) => &mut self.dials,
            (EventKind::Ended(_), _) => &mut self.ends,
            (EventKind::Sent { .. }, Role::App) => &mut self.requests,
            (EventKind::Sent { .. }, Role::Reply) => &mut self.replies,
            (EventKind::Sent { .. }, Role::Upstream) => &mut self.upstream,
        };
        *count += 1;
    }
}

/// The time of day in the format of reports: RFC 3339, UTC, microseconds.
pub fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

/// `CLOCK_MONOTONIC` in ns, the clock of records.
fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, in ns.
pub fn clock_offset() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(monotonic())
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
