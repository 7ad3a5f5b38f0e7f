//! Prometheus metrics. Reports are counted here; `catalogue` lists all metrics, `bounded` limits the number of series, `health`
//! and `map_occupancy` show the tracer's own state, and `server` serves them.

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
mod process;
mod reply_histogram;
mod server;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Instant};

use prometheus::{IntCounter, IntCounterVec, Registry, TextEncoder};

use crate::{pipeline::Pipeline, probes::Probes};
use bounded::{BoundedCounter, LabelGroup, LabelValue, OTHER};
use health::Health;
use map_occupancy::MapOccupancy;
use openmetrics::ExpositionFormat;
use process::ProcessMetrics;
use reply_histogram::ReplyHistogram;
use tracer_core::{
    report::{Report, SourceKind},
    verdict::Reason,
};

pub use server::MetricsServer;

/// The workload label of the node's own processes. No Kubernetes name begins like that.
const HOST: &str = "~host";

/// Where metrics are served, and which optional ones there are.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(skip)]
pub struct MetricsArgs {
    /// Serve Prometheus metrics at `http://ADDRESS/metrics`
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// Add this label to session metrics (raises cardinality); may be repeated
    #[arg(long, value_name = "LABEL", value_enum)]
    pub metrics_label: Vec<ExtraLabel>,
    /// Have the kernel time its programs, for the metrics; slows down each run of any BPF program on the node a little
    #[arg(long)]
    pub metrics_programs: bool,
}

/// A label of sessions that is off by default, because it has many values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExtraLabel {
    /// The app's pod.
    Pod,
    /// The host and port of the request.
    Authority,
}

/// The metrics. Clones are handles to one registry.
#[derive(Clone)]
pub struct Metrics(Rc<Inner>);

struct Inner {
    registry: Registry,
    /// `process_*`, which have no prefix by convention.
    process: Registry,
    extra: Vec<ExtraLabel>,
    sessions: RefCell<BoundedCounter>,
    refused: IntCounterVec,
    reply_seconds: ReplyHistogram,
    enrichment_misses: IntCounter,
    config_fetches: IntCounterVec,
    witness_disagreements: IntCounter,
    rejected: IntCounterVec,
    health: RefCell<Health>,
    map_occupancy: MapOccupancy,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new(probes: &Probes, args: &MetricsArgs) -> anyhow::Result<Self> {
        let metrics = Self::empty(&args.metrics_label)?;
        metrics.0.health.borrow_mut().watch(probes, args.metrics_programs)?;
        metrics.0.map_occupancy.watch(probes);
        Ok(metrics)
    }

    fn empty(extra: &[ExtraLabel]) -> anyhow::Result<Self> {
        let registry = Registry::new_custom(Some(catalogue::PREFIX.to_owned()), None)?;
        let process = Registry::new();
        process.register(Box::new(ProcessMetrics::new()?))?;
        let expired = catalogue::EXPIRED.counter(&registry)?;
        let folded = catalogue::FOLDED.counters(&registry)?;
        let config_fetches = catalogue::CONFIG_FETCHES.counters(&registry)?;
        let rejected = catalogue::SCRAPE_REJECTED.counters(&registry)?;
        // Rare series are at zero from the start, so that the first event is an increase for alert rules.
        for label in ["proxy", "source_namespace", "source_workload", "series"] {
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
            LabelGroup::new("source_workload", 3..4, catalogue::WORKLOADS),
            LabelGroup::new("proxy", 4..6, catalogue::PROXIES),
        ];
        for each in extra {
            let (label, cap) = match each {
                ExtraLabel::Pod => (&catalogue::POD, catalogue::PODS),
                ExtraLabel::Authority => (&catalogue::AUTHORITY, catalogue::AUTHORITIES),
            };
            folded.with_label_values(&[label.name]);
            groups.push(LabelGroup::new(label.name, labels.len()..labels.len() + 1, cap));
            labels.push(label.name);
        }
        let sessions = BoundedCounter::new(
            catalogue::SESSIONS.counters_with(&registry, &labels)?,
            (2, catalogue::NAMESPACES),
            groups,
            catalogue::SESSION_SERIES,
            expired,
            folded,
        );
        Ok(Self(Rc::new(Inner {
            extra: extra.to_vec(),
            sessions: RefCell::new(sessions),
            refused: catalogue::REFUSED.counters(&registry)?,
            reply_seconds: ReplyHistogram::new(catalogue::REPLY_SECONDS.histograms(&registry)?),
            enrichment_misses: catalogue::ENRICHMENT_MISSES.counter(&registry)?,
            config_fetches,
            witness_disagreements: catalogue::WITNESS_DISAGREEMENTS.counter(&registry)?,
            rejected,
            health: RefCell::new(Health::new(&registry)?),
            map_occupancy: MapOccupancy::new(&registry)?,
            process,
            registry,
        })))
    }

    /// Counts a report. `now` is the time that decides when its series expires.
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
            LabelValue::Text(verdict),
            LabelValue::Text(reason),
            LabelValue::Text(namespace),
            LabelValue::Text(workload),
            LabelValue::Ip(proxy.ip),
            LabelValue::Number(proxy.port),
        ];
        let extra = inner.extra.iter().map(|extra| match extra {
            ExtraLabel::Pod => LabelValue::Text(pod),
            ExtraLabel::Authority => LabelValue::Text(&connect.authority),
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
            let known = catalogue::STATUSES.contains(&status).then(|| status.to_string());
            inner.refused.with_label_values(&[verdict, known.as_deref().unwrap_or(OTHER), version]).inc();
        }
    }

    /// Drops the series of a deleted pod, which exist only with `--metrics-label pod`. Those of its workload expire.
    pub fn forget_pod(&self, namespace: &str, pod: &str) {
        let Self(inner) = self;
        let usual = catalogue::SESSIONS.labels.len();
        let Some(at) = inner.extra.iter().position(|extra| *extra == ExtraLabel::Pod) else { return };
        let is_of_pod = |values: &[String]| values[2] == namespace && values[usual + at] == pod;
        inner.sessions.borrow_mut().remove(|values, _| is_of_pod(values));
    }

    /// Counts a request for the configuration of a sidecar.
    pub fn count_config_fetch(&self, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        self.0.config_fetches.with_label_values(&[result]).inc();
    }

    /// Counts a flag that was withdrawn, because the sidecar's configuration contradicts it.
    pub fn count_witness_disagreement(&self) {
        self.0.witness_disagreements.inc();
    }

    /// Copies the counters of the pipeline and the kernel, and drops idle series.
    pub fn update(&self, pipeline: &Pipeline) {
        let (Self(inner), now) = (self, Instant::now());
        if inner.health.borrow_mut().update(pipeline, now) {
            inner.sessions.borrow_mut().expire(now);
        }
    }

    fn count_rejected(&self, reason: &'static str) {
        self.0.rejected.with_label_values(&[reason]).inc();
    }

    /// Updates what is too expensive to keep up to date between scrapes.
    async fn refresh(&self) {
        self.0.map_occupancy.refresh().await;
    }

    /// The text of all metrics.
    fn exposition(&self, format: ExpositionFormat) -> Result<String, prometheus::Error> {
        let Self(inner) = self;
        let mut text = String::new();
        for registry in [&inner.registry, &inner.process] {
            let families = registry.gather();
            match format {
                ExpositionFormat::Text => TextEncoder::new().encode_utf8(&families, &mut text)?,
                ExpositionFormat::OpenMetrics => openmetrics::encode(&families, &mut text),
            }
        }
        if format == ExpositionFormat::OpenMetrics {
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
    fn pod_that_asks_for_a_hundred_thousand_hosts_adds_a_bounded_number_of_series() {
        let mut report = reports().remove(0);
        for (extra, most) in [
            (&[][..], 1),
            (&[ExtraLabel::Authority][..], catalogue::AUTHORITIES + 1),
            (&[ExtraLabel::Authority, ExtraLabel::Pod][..], catalogue::SESSION_SERIES + 1),
        ] {
            let metrics = Metrics::empty(extra).unwrap();
            for n in 0..100_000_u32 {
                report.connect.authority = format!("host-{n}.example.com:443").into();
                report.source.pod = Some(format!("pod-{}", n % 700));
                metrics.count(&report, Instant::now());
            }
            let text = metrics.exposition(ExpositionFormat::Text).unwrap();
            let series = lines(&text, "connect_sessions_total").count();
            assert!(series <= most, "{extra:?}: {series}");
            assert_eq!(sum(&text, "connect_sessions_total"), 100_000, "{extra:?}");
        }
    }

    #[test]
    fn hostile_labels_stay_within_the_documented_number_of_series() {
        let mut report = reports().remove(0);
        let metrics = Metrics::empty(&[]).unwrap();
        for n in 0..50_000_u32 {
            report.proxy.ip = std::net::Ipv4Addr::from(n).into();
            report.proxy.port = u16::try_from(n % 60_000).unwrap();
            report.source.workload = Some(format!("w{}", n % 999));
            report.source.namespace = Some(format!("n{}", n % 333));
            report.verdict = Verdict::ALL[n as usize % Verdict::ALL.len()];
            report.reply.as_mut().unwrap().status = Some(u16::try_from(n % 60_000).unwrap());
            metrics.count(&report, Instant::now());
        }
        let text = metrics.exposition(ExpositionFormat::Text).unwrap();
        for family in [&catalogue::SESSIONS, &catalogue::REFUSED] {
            let series = lines(&text, family.name).count();
            assert!(series <= family.most_series(), "{}: {series}", family.name);
        }
        let all = sum(&text, "connect_sessions_total");
        assert!((1..=50_000).contains(&all), "series of the largest namespace made room for others: {all}");
    }

    #[test]
    fn flood_of_one_namespace_hides_no_label_of_another() {
        let mut report = reports().remove(0);
        let metrics = Metrics::empty(&[]).unwrap();
        report.source.namespace = Some("hostile".to_owned());
        for n in 0..2_700_u32 {
            report.proxy.ip = std::net::Ipv4Addr::from(n).into();
            report.source.workload = Some(format!("w{n}"));
            report.reply.as_mut().unwrap().status = Some(u16::try_from(300 + n % 600).unwrap());
            metrics.count(&report, Instant::now());
        }
        report.source.namespace = Some("shop".to_owned());
        report.source.workload = Some("cart".to_owned());
        report.reply.as_mut().unwrap().status = Some(426);
        metrics.count(&report, Instant::now());
        let text = metrics.exposition(ExpositionFormat::Text).unwrap();
        let own = lines(&text, "connect_sessions_total").find(|line| line.contains("\"shop\""));
        assert!(own.is_some_and(|line| line.contains("\"cart\"") && !line.contains("~other")), "{own:?}");
        assert!(lines(&text, "connect_refused_total").any(|line| line.contains("\"426\"")), "{text}");
    }

    #[test]
    fn series_of_a_deleted_pod_are_dropped() {
        let mut report = reports().remove(0);
        let metrics = Metrics::empty(&[ExtraLabel::Authority, ExtraLabel::Pod]).unwrap();
        for (namespace, pod) in [("shop", "cart-1"), ("shop", "cart-2"), ("bank", "cart-1")] {
            report.source.namespace = Some(namespace.to_owned());
            report.source.pod = Some(pod.to_owned());
            metrics.count(&report, Instant::now());
        }
        metrics.forget_pod("shop", "cart-1");
        let text = metrics.exposition(ExpositionFormat::Text).unwrap();
        let left: Vec<_> = lines(&text, "connect_sessions_total").collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(!left.iter().any(|line| line.contains("\"shop\"") && line.contains("cart-1")), "{left:?}");
        assert!(text.contains("egress_tracer_expired_series_total 1\n"), "{text}");
    }

    #[test]
    fn workload_of_63_special_characters_stays_one_label() {
        let mut report = reports().remove(0);
        let special: String = "\"\\\n{}=,é".chars().cycle().take(63).collect();
        report.source.workload = Some(special.clone());
        let metrics = Metrics::empty(&[]).unwrap();
        metrics.count(&report, Instant::now());
        let escaped = special.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        for format in [ExpositionFormat::Text, ExpositionFormat::OpenMetrics] {
            let text = metrics.exposition(format).unwrap();
            let series: Vec<_> = lines(&text, "connect_sessions_total").collect();
            assert_eq!(series.len(), 1, "{series:?}");
            assert!(series[0].contains(&format!("source_workload=\"{escaped}\"")), "{series:?}");
        }
    }

    #[test]
    fn idle_series_are_dropped_and_counted() {
        let metrics = Metrics::empty(&[]).unwrap();
        let start = Instant::now();
        for report in reports() {
            metrics.count(&report, start);
        }
        metrics.0.sessions.borrow_mut().expire(start + bounded::IDLE / 2);
        let text = metrics.exposition(ExpositionFormat::Text).unwrap();
        assert_eq!(lines(&text, "connect_sessions_total").count(), 2);
        metrics.0.sessions.borrow_mut().expire(start + bounded::IDLE);
        let text = metrics.exposition(ExpositionFormat::Text).unwrap();
        assert_eq!(lines(&text, "connect_sessions_total").count(), 0);
        assert!(text.contains("egress_tracer_expired_series_total 2\n"), "{text}");
    }

    #[test]
    fn both_forms_say_the_same() {
        let metrics = Metrics::empty(&[]).unwrap();
        for report in reports() {
            metrics.count(&report, Instant::now());
        }
        let exposition = |format| metrics.exposition(format).unwrap();
        let [text, open] = [ExpositionFormat::Text, ExpositionFormat::OpenMetrics].map(exposition);
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
