//! Every metric, in the order of its documentation: name, kind, help, labels, and the bound of its series. The collectors
//! and `docs/metrics.md` are made from this list.

use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, core::Collector,
};
use tracer_core::verdict::{Reason, Verdict};
use tracer_ebpf::record::Loss;

use crate::throttled;

/// The prefix of every name except `process_*`.
pub(super) const PREFIX: &str = "egress_tracer";

/// The most namespaces that have series at a time; the others are folded.
pub(super) const NAMESPACES: usize = 64;
/// The most values of each other open-ended label that have series at a time in one namespace.
pub(super) const WORKLOADS: usize = 64;
pub(super) const PROXIES: usize = 64;
pub(super) const PODS: usize = 128;
pub(super) const AUTHORITIES: usize = 64;
/// The most combinations of these labels. Each namespace has a fair share of them.
pub(super) const SESSION_SERIES: usize = 2_000;
/// Statuses that have a label of their own: those of proxies and of Envoy. An app may have a server of its own answer with
/// any number, so the set is closed.
pub(super) const STATUSES: [u16; 28] = [
    301, 302, 400, 401, 403, 404, 405, 407, 408, 410, 411, 413, 414, 421, 425, 426, 429, 431, 451, 500, 501,
    502, 503, 504, 505, 507, 508, 511,
];
const VERDICTS: usize = Verdict::ALL.len();
const REASONS: usize = Reason::ALL.len();
/// A bound of the pairs of verdict and reason: each reason belongs to one verdict.
const VERDICT_REASONS: usize = VERDICTS + REASONS;

/// Seconds, from a sidecar's own answer (half a millisecond) to the default deadline.
pub(super) const REPLY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A metric family.
#[derive(Debug)]
pub(super) struct MetricFamily {
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    pub(super) help: &'static str,
    pub(super) labels: &'static [Label],
    /// The most label combinations, if less than the product of the labels' bounds.
    pub(super) combinations: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// A label and how many values it can have.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) bound: usize,
    pub(super) what: &'static str,
}

const fn label(name: &'static str, bound: usize, what: &'static str) -> Label {
    Label { name, bound, what }
}

const fn family(
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    labels: &'static [Label],
) -> MetricFamily {
    MetricFamily { name, kind, help, labels, combinations: None }
}

const VERDICT: Label = label("verdict", VERDICTS, "the verdict; each has a page in docs/verdicts");
const MAP: Label = label("map", 16, "a kernel map");
const PROGRAM: Label = label("program", 32, "a kernel program");

/// Labels of sessions that `--metrics-label` adds.
pub(super) const POD: Label =
    label("source_pod", SESSION_SERIES, "the app's pod; only with `--metrics-label pod`");
pub(super) const AUTHORITY: Label = label(
    "authority",
    SESSION_SERIES,
    "the target's host and port as the app wrote them; only with `--metrics-label authority`",
);

pub(super) const SESSIONS: MetricFamily = MetricFamily {
    combinations: Some(SESSION_SERIES + VERDICT_REASONS),
    ..family(
        "connect_sessions_total",
        MetricKind::Counter,
        "Requests to forward proxies, by verdict",
        &[
            VERDICT,
            label("reason", REASONS + 1, "the verdict's reason; empty if it has none"),
            label("source_namespace", NAMESPACES + 1, "the app's namespace; empty if unknown"),
            label(
                "source_workload",
                SESSION_SERIES,
                "the app's workload; `~host` for a process of the node itself; empty if unknown",
            ),
            label("proxy_ip", SESSION_SERIES, "the proxy's address as the app dialed it"),
            label("proxy_port", SESSION_SERIES, "the proxy's port; bounded together with the address"),
        ],
    )
};
pub(super) const REPLY_SECONDS: MetricFamily = family(
    "connect_reply_duration_seconds",
    MetricKind::Histogram,
    "Time from a request to a forward proxy to the first byte of its answer",
    &[VERDICT],
);
pub(super) const REFUSED: MetricFamily = family(
    "connect_refused_total",
    MetricKind::Counter,
    "Requests to forward proxies that were answered with a status other than 2xx",
    &[
        VERDICT,
        label(
            "http_status",
            STATUSES.len() + 1,
            "the answer's status; ~other if neither proxies nor Envoy use it",
        ),
        label("http_version", 3, "the request's version: 1.0, 1.1 or ~other"),
    ],
);
pub(super) const ACTIVE: MetricFamily =
    family("sessions_active", MetricKind::Gauge, "Requests that wait for an answer", &[]);
const TABLE: Label = label("table", 2, "connections (of apps) or upstreams (sockets of sidecars)");
pub(super) const TABLE_ENTRIES: MetricFamily =
    family("session_table_entries", MetricKind::Gauge, "Entries of a session table", &[TABLE]);
pub(super) const TABLE_CAPACITY: MetricFamily =
    family("session_table_capacity", MetricKind::Gauge, "Capacity of a session table (--capacity)", &[TABLE]);
pub(super) const DROPPED: MetricFamily = family(
    "sessions_dropped_total",
    MetricKind::Counter,
    "Connections that were dropped, because the session table was full (--capacity) or took too much memory; those of the \
     pod with the most go first",
    &[],
);
pub(super) const RECORDS: MetricFamily = family(
    "records_total",
    MetricKind::Counter,
    "Records read from the kernel",
    &[label("kind", 5, "dial, request, reply, upstream or end")],
);
/// Why userspace loses a record: its bytes cannot be decoded. The reasons of the kernel are in [`Loss::ALL`].
pub(super) const MALFORMED: &str = "malformed";
/// Each reason has one source.
const LOST_REASONS: usize = Loss::ALL.len() + 1;
pub(super) const LOST: MetricFamily = MetricFamily {
    combinations: Some(LOST_REASONS),
    ..family(
        "lost_events_total",
        MetricKind::Counter,
        "Records that were lost, by source and reason",
        &[
            label("source", 2, "kernel: not written to the ring; userspace: read, but not decoded"),
            label("reason", LOST_REASONS, "see the table below"),
        ],
    )
};
pub(super) const THROTTLED: MetricFamily = MetricFamily {
    combinations: Some(throttled::PODS + 3),
    ..family(
        "throttled_records_total",
        MetricKind::Counter,
        "Records that were not written because the processes of one cgroup made more than `--record-rate`, by who made them",
        &[
            label("source_namespace", NAMESPACES, "the pod's namespace"),
            label(
                "source_pod",
                throttled::PODS,
                "the pod; `~host`, `~unknown`, or `~other` beyond the first 256",
            ),
        ],
    )
};
pub(super) const RING_USED: MetricFamily = family(
    "ring_used_bytes",
    MetricKind::Gauge,
    "The most bytes that waited in the ring since the previous refresh (a second or less)",
    &[],
);
pub(super) const RING_CAPACITY: MetricFamily =
    family("ring_capacity_bytes", MetricKind::Gauge, "Capacity of the ring", &[]);
pub(super) const MAP_ENTRIES: MetricFamily = family(
    "map_entries",
    MetricKind::Gauge,
    "Entries of a kernel map, counted on a scrape, at most every 30 seconds; a full map drops its oldest entries",
    &[MAP],
);
pub(super) const MAP_CAPACITY: MetricFamily =
    family("map_capacity", MetricKind::Gauge, "Capacity of a kernel map", &[MAP]);
pub(super) const ATTACHED: MetricFamily = family(
    "probe_attached",
    MetricKind::Gauge,
    "1 if this kernel hook is attached, 0 if it should be and is not",
    &[label("hook", 32, "a kernel program"), label("family", 3, "fentry, kprobe or cgroup")],
);
pub(super) const PROGRAM_SECONDS: MetricFamily = family(
    "program_seconds_total",
    MetricKind::Counter,
    "Processor time of a kernel program; only with --metrics-programs, or while the sysctl kernel.bpf_stats_enabled is 1",
    &[PROGRAM],
);
pub(super) const PROGRAM_RUNS: MetricFamily = family(
    "program_runs_total",
    MetricKind::Counter,
    "Runs of a kernel program; only with --metrics-programs, or while the sysctl kernel.bpf_stats_enabled is 1",
    &[PROGRAM],
);
pub(super) const CONFIG_FETCHES: MetricFamily = family(
    "config_fetches_total",
    MetricKind::Counter,
    "Configurations fetched from sidecars",
    &[label("result", 2, "ok or failed")],
);
pub(super) const WITNESS_DISAGREEMENTS: MetricFamily = family(
    "witness_disagreements_total",
    MetricKind::Counter,
    "Flags that were withdrawn, because the sidecar's configuration contradicts what was captured",
    &[],
);
pub(super) const AUDIT: MetricFamily = family(
    "audit_workloads",
    MetricKind::Gauge,
    "Pods with a sidecar and a known proxy, by what the sidecar's configuration would do with a CONNECT; the worst of several \
     proxies counts. Not with --no-explain",
    &[label(
        "verdict",
        VERDICTS + 1,
        "the verdict that a session would get; `~unknown` if the configuration does not say",
    )],
);
pub(super) const RUNTIME: MetricFamily = family(
    "runtime_connected",
    MetricKind::Gauge,
    "1 while the container runtime answers, 0 while it does not or where none was found; without it, new pods have no names",
    &[],
);
pub(super) const ENRICHMENT_MISSES: MetricFamily =
    family("enrichment_misses_total", MetricKind::Counter, "Sessions whose pod is unknown", &[]);
pub(super) const UNTRACKED: MetricFamily = family(
    "requests_untracked_total",
    MetricKind::Counter,
    "Requests that were not tracked, because their connection had too many without an answer",
    &[],
);
pub(super) const EXPIRED: MetricFamily = family(
    "expired_series_total",
    MetricKind::Counter,
    "Series that were dropped because they did not change for an hour, because their pod was deleted, or for those of a \
     namespace with fewer",
    &[],
);
pub(super) const FOLDED: MetricFamily = family(
    "folded_sessions_total",
    MetricKind::Counter,
    "Sessions counted under ~other, because a label had reached its bound in their namespace (series: the \
     namespace's share of combinations)",
    &[label("label", 6, "proxy, source_namespace, source_workload, source_pod, authority or series")],
);
pub(super) const SCRAPE_REJECTED: MetricFamily = family(
    "http_rejected_total",
    MetricKind::Counter,
    "Requests and connections that the metrics port rejected",
    &[label(
        "reason",
        2,
        "rate: a request beyond the rate limit; connections: the oldest connection, closed for a new one",
    )],
);
pub(super) const BUILD: MetricFamily = family(
    "build_info",
    MetricKind::Gauge,
    "1, with the version as a label",
    &[label("version", 1, "egress-tracer's version")],
);

/// Every metric, in the order of the documentation.
pub(super) const ALL: &[&MetricFamily] = &[
    &SESSIONS,
    &REFUSED,
    &REPLY_SECONDS,
    &ACTIVE,
    &TABLE_ENTRIES,
    &TABLE_CAPACITY,
    &DROPPED,
    &UNTRACKED,
    &RECORDS,
    &LOST,
    &THROTTLED,
    &RING_USED,
    &RING_CAPACITY,
    &MAP_ENTRIES,
    &MAP_CAPACITY,
    &ATTACHED,
    &PROGRAM_SECONDS,
    &PROGRAM_RUNS,
    &CONFIG_FETCHES,
    &WITNESS_DISAGREEMENTS,
    &AUDIT,
    &RUNTIME,
    &ENRICHMENT_MISSES,
    &EXPIRED,
    &FOLDED,
    &SCRAPE_REJECTED,
    &BUILD,
];

impl MetricFamily {
    /// The most series that it can have without the labels of `--metrics-label`.
    pub(super) fn most_series(&self) -> usize {
        let product = self.labels.iter().map(|label| label.bound).product();
        let combinations = self.combinations.unwrap_or(product);
        match self.kind {
            MetricKind::Counter | MetricKind::Gauge => combinations,
            // Each bucket, +Inf, the sum and the count.
            MetricKind::Histogram => combinations * (REPLY_BUCKETS.len() + 3),
        }
    }

    pub(super) fn counter(&self, registry: &Registry) -> Result<IntCounter> {
        registered(registry, IntCounter::with_opts(self.options())?)
    }

    pub(super) fn counters(&self, registry: &Registry) -> Result<IntCounterVec> {
        self.counters_with(registry, &self.label_names())
    }

    pub(super) fn counters_with(&self, registry: &Registry, labels: &[&str]) -> Result<IntCounterVec> {
        registered(registry, IntCounterVec::new(self.options(), labels)?)
    }

    pub(super) fn seconds(&self, registry: &Registry) -> Result<CounterVec> {
        registered(registry, CounterVec::new(self.options(), &self.label_names())?)
    }

    pub(super) fn gauge(&self, registry: &Registry) -> Result<IntGauge> {
        registered(registry, IntGauge::with_opts(self.options())?)
    }

    pub(super) fn gauges(&self, registry: &Registry) -> Result<IntGaugeVec> {
        registered(registry, IntGaugeVec::new(self.options(), &self.label_names())?)
    }

    pub(super) fn histograms(&self, registry: &Registry) -> Result<HistogramVec> {
        let options = HistogramOpts::from(self.options()).buckets(REPLY_BUCKETS.to_vec());
        registered(registry, HistogramVec::new(options, &self.label_names())?)
    }

    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    fn options(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
