//! Every metric, in the order of its documentation: name, kind, help, labels, and how many series it may become. The
//! collectors and `docs/metrics.md` are made from it, so neither can say what the other does not.

use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, core::Collector,
};

/// The prefix of all names but `process_*`.
pub(super) const PREFIX: &str = "egress_tracer";

/// How many values of each open-ended label have series of their own at a time.
pub(super) const NAMESPACES: usize = 64;
pub(super) const WORKLOADS: usize = 256;
pub(super) const DESTINATIONS: usize = 256;
pub(super) const PODS: usize = 512;
pub(super) const AUTHORITIES: usize = 256;
pub(super) const STATUSES: usize = 32;
/// How many combinations of them.
pub(super) const SESSION_SERIES: usize = 2_000;
pub(super) const REFUSED_SERIES: usize = 256;
/// The pairs of verdict and reason that there are: 10 of `handled_as_http`, 2 of `unreachable`, the others have none.
const JUDGEMENTS: usize = 10 + 2 + 7;
const VERDICTS: usize = 9;

/// Seconds; from a sidecar's own answer (half a millisecond) to the default deadline.
pub(super) const REPLY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A metric family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) labels: &'static [Label],
    /// The most label combinations, where that is less than the product of the labels' bounds.
    pub(super) combinations: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

const fn family(name: &'static str, kind: Kind, help: &'static str, labels: &'static [Label]) -> Family {
    Family { name, kind, help, labels, combinations: None }
}

const VERDICT: Label = label("verdict", VERDICTS, "what became of it: a page of docs/verdicts");
const MAP: Label = label("map", 16, "a map of the kernel side");
const PROGRAM: Label = label("program", 32, "a program of the kernel side");

/// Labels that sessions have only when asked for, by `--metrics-label`.
pub(super) const POD: Label = label("source_pod", PODS + 1, "the app's pod; only with `--metrics-label pod`");
pub(super) const AUTHORITY: Label = label(
    "authority",
    AUTHORITIES + 1,
    "the host and port asked for, as the app wrote them; only with `--metrics-label authority`",
);

pub(super) const SESSIONS: Family = Family {
    combinations: Some(SESSION_SERIES + JUDGEMENTS),
    ..family(
        "connect_sessions_total",
        Kind::Counter,
        "Requests to forward proxies, by what became of them",
        &[
            VERDICT,
            label("reason", 13, "why, where the verdict has several causes; else empty"),
            label("source_namespace", NAMESPACES + 1, "the app's namespace; empty where not known"),
            label(
                "source_workload",
                WORKLOADS + 1,
                "the app's workload; `~host`: a process of the node itself; empty where not known",
            ),
            label("destination_ip", DESTINATIONS + 1, "the proxy's address as the app dialled it"),
            label("destination_port", DESTINATIONS + 1, "its port; bounded together with the address"),
        ],
    )
};
pub(super) const REPLY_SECONDS: Family = family(
    "connect_reply_duration_seconds",
    Kind::Histogram,
    "Time from a request to a forward proxy to the first byte of its answer",
    &[VERDICT],
);
pub(super) const REFUSED: Family = Family {
    combinations: Some(REFUSED_SERIES + VERDICTS),
    ..family(
        "connect_refused_total",
        Kind::Counter,
        "Requests to forward proxies that were answered with something else than 2xx",
        &[
            VERDICT,
            label("http_status", STATUSES + 1, "the answer's status"),
            label("http_version", 3, "the request's version: 1.0 or 1.1"),
        ],
    )
};
pub(super) const ACTIVE: Family =
    family("sessions_active", Kind::Gauge, "Requests that wait for their answer", &[]);
const TABLE: Label = label("table", 2, "connections of apps, or upstream sockets of sidecars");
pub(super) const TABLE_ENTRIES: Family =
    family("session_table_entries", Kind::Gauge, "Entries of the table of sessions", &[TABLE]);
pub(super) const TABLE_CAPACITY: Family =
    family("session_table_capacity", Kind::Gauge, "Entries that the table of sessions may have", &[TABLE]);
pub(super) const DROPPED: Family = family(
    "sessions_dropped_total",
    Kind::Counter,
    "Connections that were forgotten, oldest first, because there were too many",
    &[],
);
pub(super) const RECORDS: Family = family(
    "records_total",
    Kind::Counter,
    "Records read from the kernel",
    &[label("kind", 5, "dial, request, reply, upstream or end")],
);
pub(super) const LOST: Family = family(
    "lost_events_total",
    Kind::Counter,
    "Records that were lost, by where and why",
    &[
        label("source", 2, "kernel: never written; userspace: written, but not understood"),
        label("reason", 8, "ring_full, payload_unreadable, map_full; malformed"),
    ],
);
pub(super) const RING_USED: Family = family(
    "ring_used_bytes",
    Kind::Gauge,
    "The most bytes of the ring that waited for the reader, since the previous refresh (a second or less)",
    &[],
);
pub(super) const RING_CAPACITY: Family =
    family("ring_capacity_bytes", Kind::Gauge, "Bytes that the ring can hold", &[]);
pub(super) const MAP_ENTRIES: Family = family(
    "map_entries",
    Kind::Gauge,
    "Entries of a kernel map, counted when asked for, at most every 30 seconds; a full one forgets its oldest ones",
    &[MAP],
);
pub(super) const MAP_CAPACITY: Family =
    family("map_capacity", Kind::Gauge, "Entries that a kernel map can have", &[MAP]);
pub(super) const ATTACHED: Family = family(
    "probe_attached",
    Kind::Gauge,
    "1: this kernel hook is attached; 0: it should be, and is not",
    &[label("hook", 32, "a program of the kernel side"), label("flavour", 3, "fentry, kprobe or cgroup")],
);
pub(super) const PROGRAM_SECONDS: Family = family(
    "program_seconds_total",
    Kind::Counter,
    "Processor time of a kernel program; counts with --metrics-programs, or while the sysctl kernel.bpf_stats_enabled is 1",
    &[PROGRAM],
);
pub(super) const PROGRAM_RUNS: Family = family(
    "program_runs_total",
    Kind::Counter,
    "Runs of a kernel program; counts with --metrics-programs, or while the sysctl kernel.bpf_stats_enabled is 1",
    &[PROGRAM],
);
pub(super) const CONFIG_FETCHES: Family = family(
    "config_fetches_total",
    Kind::Counter,
    "Configurations asked of sidecars",
    &[label("result", 2, "ok or failed")],
);
pub(super) const ENRICHMENT_MISSES: Family =
    family("enrichment_misses_total", Kind::Counter, "Sessions whose pod is not known", &[]);
pub(super) const EXPIRED: Family = family(
    "expired_series_total",
    Kind::Counter,
    "Series that were dropped because nothing was counted in them for an hour, or their pod is gone",
    &[],
);
pub(super) const FOLDED: Family = family(
    "folded_sessions_total",
    Kind::Counter,
    "Sessions counted under ~other, because the label had no room for another value (series: the metric for \
     another combination)",
    &[label(
        "label",
        7,
        "destination, source_namespace, source_workload, source_pod, authority, http_status or series",
    )],
);
pub(super) const SCRAPE_REJECTED: Family = family(
    "http_rejected_total",
    Kind::Counter,
    "What the metrics port turned away",
    &[label(
        "reason",
        2,
        "rate: a request beyond the rate; connections: the oldest connection, for a new one",
    )],
);
pub(super) const BUILD: Family = family(
    "build_info",
    Kind::Gauge,
    "1, with the version as a label",
    &[label("version", 1, "egress-tracer's version")],
);

/// All, in the order of the documentation.
pub(super) const ALL: [&Family; 22] = [
    &SESSIONS,
    &REFUSED,
    &REPLY_SECONDS,
    &ACTIVE,
    &TABLE_ENTRIES,
    &TABLE_CAPACITY,
    &DROPPED,
    &RECORDS,
    &LOST,
    &RING_USED,
    &RING_CAPACITY,
    &MAP_ENTRIES,
    &MAP_CAPACITY,
    &ATTACHED,
    &PROGRAM_SECONDS,
    &PROGRAM_RUNS,
    &CONFIG_FETCHES,
    &ENRICHMENT_MISSES,
    &EXPIRED,
    &FOLDED,
    &SCRAPE_REJECTED,
    &BUILD,
];

impl Family {
    /// The most series that it can have, without the labels that are off by default.
    pub(super) fn most_series(&self) -> usize {
        let product = self.labels.iter().map(|label| label.bound).product();
        let combinations = self.combinations.unwrap_or(product);
        match self.kind {
            Kind::Counter | Kind::Gauge => combinations,
            // Each bucket, +Inf, the sum and the count.
            Kind::Histogram => combinations * (REPLY_BUCKETS.len() + 3),
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
