//! The tracer's own health: counters of the pipeline and the kernel, copied once a second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{HOST, Metrics, bounded::OTHER, catalogue};
use crate::{
    pipeline::Pipeline,
    probes::{Probes, ProgramTiming},
    throttled::Maker,
};
use tracer_core::verdict::Verdict;

/// The shortest time between two copies.
const REFRESH: Duration = Duration::from_secs(1);

/// The verdict label of sidecars whose answer to an audit is not known.
const UNKNOWN: &str = "~unknown";

impl Metrics {
    /// Sets how many sidecars there are by what their configuration would do, from the verdict of each; `None`: not known.
    pub fn set_audit(&self, verdicts: impl Iterator<Item = Option<Verdict>>) {
        self.0.health.borrow().set_audit(verdicts);
    }
}

/// The metrics of the tracer's health.
pub(super) struct Health {
    active: IntGauge,
    table_entries: IntGaugeVec,
    table_capacity: IntGaugeVec,
    dropped: IntCounter,
    untracked: IntCounter,
    records: IntCounterVec,
    lost: IntCounterVec,
    throttled: IntCounterVec,
    ring_used: IntGauge,
    ring_capacity: IntGauge,
    attached: IntGaugeVec,
    program_seconds: CounterVec,
    program_runs: IntCounterVec,
    audit: IntGaugeVec,
    runtime: IntGauge,
    refreshed: Option<Instant>,
    timing: Option<ProgramTiming>,
}

impl Health {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let build = catalogue::BUILD.gauges(registry)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            active: catalogue::ACTIVE.gauge(registry)?,
            table_entries: catalogue::TABLE_ENTRIES.gauges(registry)?,
            table_capacity: catalogue::TABLE_CAPACITY.gauges(registry)?,
            dropped: catalogue::DROPPED.counter(registry)?,
            untracked: catalogue::UNTRACKED.counter(registry)?,
            records: catalogue::RECORDS.counters(registry)?,
            lost: catalogue::LOST.counters(registry)?,
            throttled: catalogue::THROTTLED.counters(registry)?,
            ring_used: catalogue::RING_USED.gauge(registry)?,
            ring_capacity: catalogue::RING_CAPACITY.gauge(registry)?,
            attached: catalogue::ATTACHED.gauges(registry)?,
            program_seconds: catalogue::PROGRAM_SECONDS.seconds(registry)?,
            program_runs: catalogue::PROGRAM_RUNS.counters(registry)?,
            audit: catalogue::AUDIT.gauges(registry)?,
            runtime: catalogue::RUNTIME.gauge(registry)?,
            refreshed: None,
            timing: None,
        })
    }

    /// Counts sidecars by their verdict.
    fn set_audit(&self, verdicts: impl Iterator<Item = Option<Verdict>>) {
        let mut counts: BTreeMap<&str, i64> =
            Verdict::ALL.iter().map(|verdict| (verdict.name(), 0)).collect();
        counts.insert(UNKNOWN, 0);
        for verdict in verdicts {
            *counts.entry(verdict.map_or(UNKNOWN, Verdict::name)).or_default() += 1;
        }
        // All of them, so that a count that falls to nothing is seen to fall.
        for (verdict, count) in counts {
            self.audit.with_label_values(&[verdict]).set(count);
        }
    }

    /// Sets what is constant while these probes are attached.
    pub(super) fn watch(&mut self, probes: &Probes, timed: bool) -> anyhow::Result<()> {
        self.timing = timed.then(ProgramTiming::begin).transpose()?;
        for program in probes.programs() {
            self.attached.with_label_values(&[program, probes.family().name]).set(1);
        }
        Ok(())
    }

    /// Copies the counters; `false`: they were copied less than [`REFRESH`] ago.
    pub(super) fn update(&mut self, pipeline: &Pipeline, now: Instant) -> bool {
        if self.refreshed.is_some_and(|at| now.saturating_duration_since(at) < REFRESH) {
            return false;
        }
        self.refreshed = Some(now);
        self.copy_pipeline(pipeline);
        let probes = pipeline.probes();
        match probes.losses() {
            Ok(losses) => {
                for (reason, count) in losses {
                    raise(&self.lost.with_label_values(&["kernel", reason]), count);
                }
            }
            Err(error) => log::warn!("{error:#}"),
        }
        for (program, seconds, runs) in probes.program_runs() {
            let counted = self.program_seconds.with_label_values(&[&program]);
            counted.inc_by((seconds - counted.get()).max(0.0));
            raise(&self.program_runs.with_label_values(&[&program]), runs);
        }
        true
    }

    fn copy_pipeline(&self, pipeline: &Pipeline) {
        let stats = pipeline.stats();
        self.active.set(signed(stats.pending));
        for (table, entries) in [("connections", stats.connections), ("upstreams", stats.upstreams)] {
            self.table_entries.with_label_values(&[table]).set(signed(entries));
            self.table_capacity.with_label_values(&[table]).set(signed(pipeline.capacity()));
        }
        raise(&self.dropped, stats.dropped);
        raise(&self.untracked, stats.untracked);
        let counts = pipeline.counts();
        for (kind, count) in [
            ("dial", counts.dials),
            ("request", counts.requests),
            ("reply", counts.replies),
            ("upstream", counts.upstream),
            ("end", counts.ends),
        ] {
            raise(&self.records.with_label_values(&[kind]), count);
        }
        raise(&self.lost.with_label_values(&["userspace", catalogue::MALFORMED]), counts.malformed);
        for (maker, count) in pipeline.throttled().by_maker() {
            let labels = match maker {
                Maker::Pod(namespace, pod) => [namespace.as_str(), pod.as_str()],
                Maker::Host => ["", HOST],
                Maker::Unknown => ["", UNKNOWN],
                Maker::Other => ["", OTHER],
            };
            raise(&self.throttled.with_label_values(&labels), count);
        }
        let (used, capacity) = pipeline.take_ring_peak();
        self.ring_used.set(signed(used));
        self.ring_capacity.set(signed(capacity));
        self.runtime.set(i64::from(pipeline.is_runtime_connected()));
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Raises a counter to a total that was counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
