//! The running tracer: reads the ring when the kernel says so, feeds the core, and counts. It owns the only mutable
//! state; whoever wants reports is handed them.

use std::{collections::HashMap, fs::File, io::BufWriter, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    probes::{Probes, Ring},
    recording::Recorder,
    runtime::{News, Runtime},
};
use tracer_core::{
    engine::{Engine, Input, Settings, Stats},
    event::{Event, Role, EventKind},
    pod::Pod,
    redact::Redactor,
    report::{Gap, LossSource, Reports, rfc3339},
};

/// Probes, ring and core together.
pub struct Pipeline {
    probes: Probes,
    runtime: Option<Runtime>,
    ring: Ring,
    redactor: Redactor,
    core: Engine,
    capacity: usize,
    tick: Interval,
    due: Due,
    counts: Counts,
    losses: Losses,
    recorder: Option<Recorder<BufWriter<File>>>,
}

/// What there is to do before there is something to wait for.
#[derive(Default)]
enum Due {
    #[default]
    Nothing,
    /// The runtime has told something.
    Learn(News),
    /// There may be something in the ring.
    Look {
        /// It is also time to see what has changed in a second, at this time.
        tick: Option<u64>,
        /// The time of the latest record that was taken.
        latest: Option<u64>,
    },
}

impl Due {
    fn look(tick: Option<u64>) -> Self {
        Self::Look { tick, latest: None }
    }
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

impl Pipeline {
    /// Begins to read what the probes see, and to record it where asked to.
    pub fn new(
        mut probes: Probes,
        settings: Settings,
        runtime: Option<Runtime>,
        record: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let ring = probes.take_ring()?;
        let kernel_log = probes.take_log()?.run();
        tokio::task::spawn_local(async {
            if let Err(error) = kernel_log.await {
                log::warn!("{error:#}");
            }
        });
        let recorder = record.map(|file| {
            let to = File::create(file)
                .with_context(|| format!("cannot write the recording {}", file.display()))?;
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
            core: Engine::new(settings),
            tick,
            due: Due::Nothing,
            counts: Counts::default(),
            losses: Losses::default(),
            recorder: recorder.transpose()?,
        })
    }

    /// Waits for something to happen. Of what happened last, [`Self::read`] must have given all by then. Nothing is lost where
    /// this is dropped half-way.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        // However much there is to read, whoever asks for the metrics has its turn.
        if self.ring.has_more() {
            tokio::task::yield_now().await;
        }
        self.due = tokio::select! {
            news = news(self.runtime.as_mut()) => Due::Learn(news),
            woken = self.ring.wait() => woken.map(|()| Due::look(None)).context("cannot wait for the ring")?,
            _ = self.tick.tick() => Due::look(Some(monotonic())),
        };
        Ok(())
    }

    /// Goes on with what has happened until reports follow from it, and puts those into `reports`. False: that was all of it.
    pub fn read(&mut self, reports: &mut Reports) -> anyhow::Result<bool> {
        match std::mem::take(&mut self.due) {
            Due::Nothing => return Ok(false),
            Due::Learn(news) => self.learn(news, reports)?,
            Due::Look { tick, latest } => self.look(tick, latest, reports)?,
        }
        self.ask();
        Ok(!reports.is_empty())
    }

    /// Feeds the core with what is in the ring. One report is made use of and dropped before the next is made: so they take
    /// each other's memory, which is at hand.
    fn look(
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
                self.due = Due::Look { tick, latest };
                return Ok(());
            }
        }
        if let Some(now) = tick {
            self.notice_losses()?;
            // Nobody's time is over because of what lies in the ring unread.
            let time = latest.filter(|_| self.ring.has_more()).unwrap_or(now);
            self.feed(Input::Tick(time), reports)?;
        }
        Ok(())
    }

    fn feed(&mut self, input: Input, reports: &mut Reports) -> anyhow::Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.record(&input).context("cannot go on writing the recording")?;
        }
        self.core.feed(input, reports);
        Ok(())
    }

    fn learn(&mut self, news: News, reports: &mut Reports) -> anyhow::Result<()> {
        let scoped = match news {
            News::Fact(fact) => return self.feed(Input::Fact(monotonic(), fact), reports),
            News::Scope { cgroup, traced } => self.probes.set_scope(cgroup, traced),
            News::Unscope(cgroup) => self.probes.unset_scope(cgroup),
        };
        if let Err(error) = scoped {
            log::error!("{error:#}");
        }
        Ok(())
    }

    /// Asks whose those are that the core wants to know of.
    fn ask(&mut self) {
        if let Some(runtime) = &self.runtime {
            runtime.ask(self.core.take_wanted());
        }
    }

    /// The pods of which nothing more will be reported, since the previous call.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.core.take_gone()
    }

    /// Gives up waiting for names: puts the reports that did into `reports`.
    pub fn release(&mut self, reports: &mut Reports) {
        self.core.finish(reports);
    }

    /// Compares the counters of what was lost with what they were a second ago.
    fn notice_losses(&mut self) -> anyhow::Result<()> {
        for (reason, total) in self.probes.losses()? {
            self.losses.notice(LossSource::Kernel, reason, total);
        }
        self.losses.notice(LossSource::Userspace, "malformed", self.counts.malformed);
        Ok(())
    }

    /// What was lost since the previous call, as far as it was noticed: that takes up to a second.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.losses.gaps)
    }

    /// Completes the recording.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.recorder.as_mut().map_or(Ok(()), Recorder::flush).context("cannot complete the recording")
    }

    /// The attached programs.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// What the core holds.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// How many connections, and how many upstream sockets, the core may hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The most bytes of the ring that waited to be read since the previous call, and how many it can hold.
    pub fn ring_fill(&self) -> (usize, usize) {
        self.ring.fill()
    }

    /// What was read.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

/// What was lost so far, by where and why, and what of it is news.
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

/// The runtime's news; never any, where there is none.
async fn news(runtime: Option<&mut Runtime>) -> News {
    match runtime {
        Some(runtime) => runtime.next().await,
        None => std::future::pending().await,
    }
}

impl Counts {
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

/// The time of day, as reports write it.
pub fn now() -> String {
    rfc3339(jiff::Timestamp::now())
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
