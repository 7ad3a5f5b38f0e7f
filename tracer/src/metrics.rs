//! Prometheus metrics: what is counted, under which labels, and how many series that may become. It knows reports
//! and counters; it serves them in `server`.

mod server;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
    time::{Duration, Instant},
};

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::{probes::Probes, report::Report, tracing::Tracing};

pub use server::Server;

/// How many destinations (address and port) get series of their own; further ones share [`OTHER`].
const DESTINATIONS: usize = 256;
/// The label value of what has no series of its own. No address or name begins like that.
const OTHER: &str = "~other";
/// The kernel's counters are read no more often than this.
const REFRESH: Duration = Duration::from_secs(1);

/// The metrics. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Rc<Inner>);

struct Inner {
    registry: Registry,
    /// `process_*` carries no prefix, by convention.
    process: Registry,
    sessions: IntCounterVec,
    refused: IntCounterVec,
    reply_seconds: HistogramVec,
    active: IntGauge,
    dropped: IntCounter,
    records: IntCounterVec,
    lost: IntCounterVec,
    destinations: RefCell<HashSet<(std::net::IpAddr, u16)>>,
    refreshed: Cell<Option<Instant>>,
    ready: Cell<bool>,
}

impl Metrics {
    /// All of them, at zero.
    pub fn new(probes: &Probes) -> anyhow::Result<Self> {
        let registry = Registry::new_custom(Some("egress_tracer".to_owned()), None)?;
        let inner = Inner {
            sessions: counters(
                &registry,
                "connect_sessions_total",
                "Requests to forward proxies, by what became of them",
                &[
                    "verdict",
                    "reason",
                    "source_namespace",
                    "source_workload",
                    "destination_ip",
                    "destination_port",
                ],
            )?,
            refused: counters(
                &registry,
                "connect_refused_total",
                "Requests to forward proxies that were answered with something else than 2xx",
                &["verdict", "http_status", "http_version"],
            )?,
            reply_seconds: {
                let options = HistogramOpts::new(
                    "connect_reply_duration_seconds",
                    "Time from a request to a forward proxy to the first byte of its answer",
                )
                .buckets(vec![
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ]);
                let histogram = HistogramVec::new(options, &["verdict"])?;
                registry.register(Box::new(histogram.clone()))?;
                histogram
            },
            active: gauge(&registry, "sessions_active", "Requests that wait for their answer")?,
            dropped: {
                let counter = IntCounter::with_opts(Opts::new(
                    "sessions_dropped_total",
                    "Connections that were forgotten, oldest first, because there were too many",
                ))?;
                registry.register(Box::new(counter.clone()))?;
                counter
            },
            records: counters(&registry, "records_total", "Records read from the kernel", &["kind"])?,
            lost: counters(
                &registry,
                "lost_events_total",
                "Records that were lost, by where and why: ring_full, payload_unreadable, payload_in_kernel and map_full in the kernel, malformed in userspace",
                &["source"],
            )?,
            destinations: RefCell::default(),
            refreshed: Cell::default(),
            ready: Cell::default(),
            process: Registry::new(),
            registry,
        };
        let attached = IntGaugeVec::new(
            Opts::new("probe_attached", "1 for each kernel hook that is attached"),
            &["hook", "flavour"],
        )?;
        for program in probes.programs() {
            attached.with_label_values(&[program, probes.family().name()]).set(1);
        }
        inner.registry.register(Box::new(attached))?;
        let build =
            IntGaugeVec::new(Opts::new("build_info", "1, with the version as a label"), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        inner.registry.register(Box::new(build))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        inner.process.register(Box::new(process))?;
        Ok(Self(Rc::new(inner)))
    }

    /// Counts a report.
    pub fn count(&self, report: &Report) {
        let Self(inner) = self;
        let verdict = report.verdict.name();
        let (ip, port) = inner.destination(report);
        inner
            .sessions
            .with_label_values(&[
                verdict,
                report.reason.map_or("", crate::verdict::Reason::name),
                report.source.namespace.as_deref().unwrap_or(""),
                report.source.workload.as_deref().unwrap_or(""),
                &ip,
                &port,
            ])
            .inc();
        let Some(reply) = &report.reply else { return };
        #[expect(clippy::cast_precision_loss, reason = "an f64 holds 2^53 µs, which is 285 years")]
        inner.reply_seconds.with_label_values(&[verdict]).observe(reply.after_us as f64 / 1e6);
        if let Some(status) = reply.status.filter(|status| !(200..300).contains(status)) {
            let version = match report.connect.http_version.as_str() {
                known @ ("1.0" | "1.1") => known,
                _ => OTHER,
            };
            inner.refused.with_label_values(&[verdict, &status.to_string(), version]).inc();
        }
    }

    /// Takes over what the tracer and the kernel have counted.
    pub fn update(&self, tracing: &Tracing) {
        let Self(inner) = self;
        if inner.refreshed.get().is_some_and(|at| at.elapsed() < REFRESH) {
            return;
        }
        inner.refreshed.set(Some(Instant::now()));
        let stats = tracing.stats();
        inner.active.set(i64::try_from(stats.pending).unwrap_or(i64::MAX));
        raise(&inner.dropped, stats.dropped);
        let counts = tracing.counts();
        for (kind, count) in [
            ("dial", counts.dials),
            ("request", counts.requests),
            ("reply", counts.replies),
            ("upstream", counts.upstream),
            ("end", counts.ends),
        ] {
            raise(&inner.records.with_label_values(&[kind]), count);
        }
        raise(&inner.lost.with_label_values(&["malformed"]), counts.malformed);
        match tracing.probes().losses() {
            Ok(losses) => {
                for (reason, count) in losses {
                    raise(&inner.lost.with_label_values(&[reason]), count);
                }
            }
            Err(error) => log::warn!("{error:#}"),
        }
    }

    /// All hooks are attached.
    pub fn set_ready(&self) {
        self.0.ready.set(true);
    }

    fn is_ready(&self) -> bool {
        self.0.ready.get()
    }

    /// The exposition in text form.
    fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = TextEncoder::new().encode_to_string(&self.0.registry.gather())?;
        TextEncoder::new().encode_utf8(&self.0.process.gather(), &mut text)?;
        Ok(text)
    }
}

impl Inner {
    /// The labels of a report's proxy, within the bound.
    fn destination(&self, report: &Report) -> (String, String) {
        let key = (report.proxy.ip, report.proxy.port);
        let mut known = self.destinations.borrow_mut();
        if known.len() >= DESTINATIONS && !known.contains(&key) {
            return (OTHER.to_owned(), OTHER.to_owned());
        }
        known.insert(key);
        (key.0.to_string(), key.1.to_string())
    }
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::with_opts(Opts::new(name, help))?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Brings a counter to a total that was counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
