//! Prometheus metrics: reports are counted here, under labels that stay few. What is counted is in `catalogue`, the
//! bounds in `bounded`, the tracer's own state in `health` and `fill`; `server` serves it.

mod bounded;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the bounds are for the documentation, which a test writes")
)]
mod catalogue;
#[cfg(test)]
mod document;
mod map_occupancy;
mod health;
mod openmetrics;
mod reply_histogram;
mod server;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Instant,
};

use prometheus::{IntCounter, IntCounterVec, Registry, TextEncoder, process_collector::ProcessCollector};

use crate::{pipeline::Pipeline, probes::Probes};
use bounded::{Bounded, Group, OTHER, Value};
use health::Health;
use map_occupancy::Fill;
use openmetrics::Format;
use reply_histogram::ReplySeconds;
use tracer_core::{
    report::{Report, SourceKind},
    verdict::Reason,
};

pub use server::Server;

/// The workload of the node's own processes: no Kubernetes name begins so.
const HOST: &str = "~host";

/// How metrics are served, and with which labels.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Args {
    /// Serve Prometheus metrics at `http://ADDRESS/metrics`
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// Also label the sessions in the metrics with this; may be repeated
    #[arg(long, value_name = "LABEL", value_enum)]
    pub metrics_label: Vec<Extra>,
    /// Have the kernel time its programs, for the metrics; costs some nanoseconds for each run of any program on the node
    #[arg(long)]
    pub metrics_programs: bool,
}

/// A label that sessions do not have by default, because it has so many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Extra {
    /// The app's pod.
    Pod,
    /// The host and port asked for.
    Authority,
}

/// The metrics. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Rc<Inner>);

struct Inner {
    registry: Registry,
    /// `process_*` carries no prefix, by convention.
    process: Registry,
    extra: Vec<Extra>,
    sessions: RefCell<Bounded>,
    refused: RefCell<Bounded>,
    reply_seconds: ReplySeconds,
    enrichment_misses: IntCounter,
    config_fetches: IntCounterVec,
    rejected: IntCounterVec,
    health: RefCell<Health>,
    fill: Fill,
    ready: Cell<bool>,
}

impl Metrics {
    /// All of them, at zero.
    pub fn new(probes: &Probes, args: &Args) -> anyhow::Result<Self> {
        let metrics = Self::empty(&args.metrics_label)?;
        metrics.0.health.borrow_mut().watch(probes, args.metrics_programs)?;
        metrics.0.fill.watch(probes);
        Ok(metrics)
    }

    fn empty(extra: &[Extra]) -> anyhow::Result<Self> {
        let registry = Registry::new_custom(Some(catalogue::PREFIX.to_owned()), None)?;
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        let expired = catalogue::EXPIRED.counter(&registry)?;
        let folded = catalogue::FOLDED.counters(&registry)?;
        let config_fetches = catalogue::CONFIG_FETCHES.counters(&registry)?;
        let rejected = catalogue::SCRAPE_REJECTED.counters(&registry)?;
        // What may never happen is at zero from the start: the first time is an increase, too.
        for label in ["destination", "source_namespace", "source_workload", "http_status", "series"] {
            folded.with_label_values(&[label]);
        }
        for result in ["ok", "failed"] {
            config_fetches.with_label_values(&[result]);
        }
        for reason in ["rate", "connections"] {
            rejected.with_label_values(&[reason]);
        }

        let mut labels = catalogue::SESSIONS.label_names();
        let mut groups = vec![
            Group::new("source_namespace", 2..3, catalogue::NAMESPACES),
            Group::new("source_workload", 3..4, catalogue::WORKLOADS),
            Group::new("destination", 4..6, catalogue::DESTINATIONS),
        ];
        for each in extra {
            let (label, cap) = match each {
                Extra::Pod => (&catalogue::POD, catalogue::PODS),
                Extra::Authority => (&catalogue::AUTHORITY, catalogue::AUTHORITIES),
            };
            folded.with_label_values(&[label.name]);
            groups.push(Group::new(label.name, labels.len()..labels.len() + 1, cap));
            labels.push(label.name);
        }
        let sessions = Bounded::new(
            catalogue::SESSIONS.counters_with(&registry, &labels)?,
            groups,
            catalogue::SESSION_SERIES,
            expired.clone(),
            folded.clone(),
        );
        let refused = Bounded::new(
            catalogue::REFUSED.counters(&registry)?,
            vec![Group::new("http_status", 1..2, catalogue::STATUSES), Group::new("http_version", 2..3, 2)],
            catalogue::REFUSED_SERIES,
            expired,
            folded,
        );
        Ok(Self(Rc::new(Inner {
            extra: extra.to_vec(),
            sessions: RefCell::new(sessions),
            refused: RefCell::new(refused),
            reply_seconds: ReplySeconds::new(catalogue::REPLY_SECONDS.histograms(&registry)?),
            enrichment_misses: catalogue::ENRICHMENT_MISSES.counter(&registry)?,
            config_fetches,
            rejected,
            health: RefCell::new(Health::new(&registry)?),
            fill: Fill::new(&registry)?,
            ready: Cell::default(),
            process,
            registry,
        })))
    }

    /// Counts a report at this time.
    pub fn count(&self, report: &Report, now: Instant) {
        let Self(inner) = self;
        let verdict = report.verdict.name();
        let Report { source, proxy, connect, .. } = report;
        let reason = report.reason.map_or("", Reason::name);
        let namespace = source.namespace.as_deref().unwrap_or_default();
        let workload = source.workload.as_deref().unwrap_or_default();
        let workload = if source.kind == Some(SourceKind::Host) { HOST } else { workload };
        let pod = source.pod.as_deref().unwrap_or_default();
        let usual = [
            Value::Text(verdict),
            Value::Text(reason),
            Value::Text(namespace),
            Value::Text(workload),
            Value::Ip(proxy.ip),
            Value::Number(proxy.port),
        ];
        let extra = inner.extra.iter().map(|extra| match extra {
            Extra::Pod => Value::Text(pod),
            Extra::Authority => Value::Text(&connect.authority),
        });
        inner.sessions.borrow_mut().inc(usual.into_iter().chain(extra), now);
        if source.kind.is_none() {
            inner.enrichment_misses.inc();
        }
        let Some(reply) = &report.reply else { return };
        inner.reply_seconds.observe(report.verdict, reply.after_us);
        if let Some(status) = reply.status.filter(|status| !(200..300).contains(status)) {
            let version = match connect.http_version.as_str() {
                known @ ("1.0" | "1.1") => known,
                _ => OTHER,
            };
            let values = [Value::Text(verdict), Value::Number(status), Value::Text(version)];
            inner.refused.borrow_mut().inc(values, now);
        }
    }

    /// Drops the series of a pod that is gone. Without `--metrics-label pod` there are none of its own: those of its
    /// workload go when nothing was counted in them for an hour.
    pub fn forget_pod(&self, namespace: &str, pod: &str) {
        let Self(inner) = self;
        let usual = catalogue::SESSIONS.labels.len();
        let Some(at) = inner.extra.iter().position(|extra| *extra == Extra::Pod) else { return };
        let is_its = |values: &[String]| values[2] == namespace && values[usual + at] == pod;
        inner.sessions.borrow_mut().remove(|values, _| is_its(values));
    }

    /// Counts a configuration asked of a sidecar.
    pub fn count_config_fetch(&self, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        self.0.config_fetches.with_label_values(&[result]).inc();
    }

    /// Takes over what the tracer and the kernel have counted, and drops what was idle for too long.
    pub fn update(&self, tracing: &Pipeline) {
        let Self(inner) = self;
        let now = Instant::now();
        if inner.health.borrow_mut().update(tracing, now) {
            inner.sessions.borrow_mut().expire(now);
            inner.refused.borrow_mut().expire(now);
        }
    }

    /// All hooks are attached.
    pub fn set_ready(&self) {
        self.0.ready.set(true);
    }

    fn is_ready(&self) -> bool {
        self.0.ready.get()
    }

    fn count_rejected(&self, reason: &'static str) {
        self.0.rejected.with_label_values(&[reason]).inc();
    }

    /// Updates the metrics that are too expensive to update without a scrape.
    async fn refresh(&self) {
        self.0.fill.refresh().await;
    }

    /// The exposition.
    fn exposition(&self, format: Format) -> Result<String, prometheus::Error> {
        let Self(inner) = self;
        let mut text = String::new();
        for registry in [&inner.registry, &inner.process] {
            let families = registry.gather();
            match format {
                Format::Text => TextEncoder::new().encode_utf8(&families, &mut text)?,
                Format::OpenMetrics => openmetrics::encode(&families, &mut text),
            }
        }
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording;
    use tracer_core::verdict::Verdict;

    /// The reports of the recorded demo.
    fn reports() -> Vec<Report> {
        let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/traces/gotcha.jsonl");
        let mut reports = Vec::new();
        let from = std::io::BufReader::new(std::fs::File::open(recording).expect("a recording"));
        recording::replay(from, |report| {
            reports.push(report.clone());
            Ok(())
        })
        .expect("a replay");
        reports
    }

    fn lines<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
        text.lines().filter(move |line| line.starts_with(&format!("egress_tracer_{name}{{")))
    }

    fn sum(text: &str, name: &str) -> u64 {
        lines(text, name).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn a_pod_that_asks_for_a_hundred_thousand_hosts_adds_a_bounded_number_of_series() {
        let mut report = reports().remove(0);
        for (extra, most) in [
            (&[][..], 1),
            (&[Extra::Authority][..], catalogue::AUTHORITIES + 1),
            (&[Extra::Authority, Extra::Pod][..], catalogue::SESSION_SERIES + 1),
        ] {
            let metrics = Metrics::empty(extra).unwrap();
            for n in 0..100_000_u32 {
                report.connect.authority = format!("host-{n}.example.com:443").into();
                report.source.pod = Some(format!("pod-{}", n % 700));
                metrics.count(&report, Instant::now());
            }
            let text = metrics.exposition(Format::Text).unwrap();
            let series = lines(&text, "connect_sessions_total").count();
            assert!(series <= most, "{extra:?}: {series}");
            assert_eq!(sum(&text, "connect_sessions_total"), 100_000, "{extra:?}");
        }
    }

    #[test]
    fn hostile_labels_cannot_go_beyond_the_worst_case_of_the_documentation() {
        let mut report = reports().remove(0);
        let metrics = Metrics::empty(&[]).unwrap();
        for n in 0..50_000_u32 {
            report.proxy.ip = std::net::Ipv4Addr::from(n).into();
            report.proxy.port = u16::try_from(n % 60_000).unwrap();
            report.source.workload = Some(format!("w{}", n % 999));
            report.source.namespace = Some(format!("n{}", n % 333));
            report.verdict = Verdict::ALL[n as usize % 9];
            report.reply.as_mut().unwrap().status = Some(u16::try_from(n % 60_000).unwrap());
            metrics.count(&report, Instant::now());
        }
        let text = metrics.exposition(Format::Text).unwrap();
        for family in [&catalogue::SESSIONS, &catalogue::REFUSED] {
            let series = lines(&text, family.name).count();
            assert!(series <= family.most_series(), "{}: {series}", family.name);
        }
        assert_eq!(sum(&text, "connect_sessions_total"), 50_000);
    }

    #[test]
    fn a_deleted_pods_series_go() {
        let mut report = reports().remove(0);
        let metrics = Metrics::empty(&[Extra::Authority, Extra::Pod]).unwrap();
        for (namespace, pod) in [("shop", "cart-1"), ("shop", "cart-2"), ("bank", "cart-1")] {
            report.source.namespace = Some(namespace.to_owned());
            report.source.pod = Some(pod.to_owned());
            metrics.count(&report, Instant::now());
        }
        metrics.forget_pod("shop", "cart-1");
        let text = metrics.exposition(Format::Text).unwrap();
        let left: Vec<_> = lines(&text, "connect_sessions_total").collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(!left.iter().any(|line| line.contains("\"shop\"") && line.contains("cart-1")), "{left:?}");
        assert!(text.contains("egress_tracer_expired_series_total 1\n"), "{text}");
    }

    #[test]
    fn a_workload_of_63_odd_characters_stays_one_label() {
        let mut report = reports().remove(0);
        let odd: String = "\"\\\n{}=,é".chars().cycle().take(63).collect();
        report.source.workload = Some(odd.clone());
        let metrics = Metrics::empty(&[]).unwrap();
        metrics.count(&report, Instant::now());
        let escaped = odd.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        for format in [Format::Text, Format::OpenMetrics] {
            let text = metrics.exposition(format).unwrap();
            let series: Vec<_> = lines(&text, "connect_sessions_total").collect();
            assert_eq!(series.len(), 1, "{series:?}");
            assert!(series[0].contains(&format!("source_workload=\"{escaped}\"")), "{series:?}");
        }
    }

    #[test]
    fn idle_series_go_and_are_counted() {
        let metrics = Metrics::empty(&[]).unwrap();
        let start = Instant::now();
        for report in reports() {
            metrics.count(&report, start);
        }
        metrics.0.sessions.borrow_mut().expire(start + bounded::IDLE / 2);
        assert_eq!(lines(&metrics.exposition(Format::Text).unwrap(), "connect_sessions_total").count(), 2);
        metrics.0.sessions.borrow_mut().expire(start + bounded::IDLE);
        let text = metrics.exposition(Format::Text).unwrap();
        assert_eq!(lines(&text, "connect_sessions_total").count(), 0);
        assert!(text.contains("egress_tracer_expired_series_total 2\n"), "{text}");
    }

    #[test]
    fn both_forms_say_the_same() {
        let metrics = Metrics::empty(&[]).unwrap();
        for report in reports() {
            metrics.count(&report, Instant::now());
        }
        let (text, open) =
            (metrics.exposition(Format::Text).unwrap(), metrics.exposition(Format::OpenMetrics).unwrap());
        for line in lines(&text, "connect_sessions_total").chain(lines(&text, "connect_refused_total")) {
            assert!(open.contains(line), "{line} is not in {open}");
        }
        assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
        assert!(
            open.contains("# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n"),
            "{open}"
        );
    }
}
