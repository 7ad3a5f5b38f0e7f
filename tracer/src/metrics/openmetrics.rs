//! The OpenMetrics text format, and the choice between it and Prometheus' own. The `prometheus` crate can drop single series
//! and collects `process_*`, but encodes only Prometheus' text format; `prometheus-client` encodes only OpenMetrics and does
//! not collect `process_*`. The format: <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ExpositionFormat {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";
/// The units that a name may end in.
const UNITS: [&str; 2] = ["seconds", "bytes"];

impl ExpositionFormat {
    /// The format that a client prefers by its `Accept` header; the text format, which every scraper reads, where it has no
    /// preference.
    pub(super) fn accepted(accept: &str) -> Self {
        let (mut text, mut open) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0_f32, "");
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match name.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => version = value.trim(),
                    _ => {}
                }
            }
            match kind {
                OPEN_METRICS if matches!(version, "" | "1.0.0") => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Encodes families, without the end mark.
pub(super) fn encode(families: &[MetricFamily], to: &mut String) {
    for family in families {
        let full = family.name();
        // The name of a counter's family has no `_total`; the names of its samples have it.
        let name = match family.get_field_type() {
            MetricType::COUNTER => full.strip_suffix("_total").unwrap_or(full),
            MetricType::GAUGE | MetricType::HISTOGRAM | MetricType::SUMMARY | MetricType::UNTYPED => full,
        };
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            // We have none.
            MetricType::SUMMARY | MetricType::UNTYPED => "unknown",
        };
        let _ = writeln!(to, "# TYPE {name} {kind}"); // writing to a string cannot fail
        if let Some(unit) = UNITS.iter().find(|unit| name.ends_with(&format!("_{unit}"))) {
            let _ = writeln!(to, "# UNIT {name} {unit}");
        }
        let _ = write!(to, "# HELP {name} ");
        escape(family.help(), to);
        to.push('\n');
        for metric in family.get_metric() {
            samples(name, family.get_field_type(), metric, to);
        }
    }
}

fn samples(name: &str, kind: MetricType, metric: &Metric, to: &mut String) {
    let labels = metric.get_label();
    match kind {
        MetricType::COUNTER => {
            sample(&format!("{name}_total"), labels, None, metric.get_counter().get_value(), to);
        }
        MetricType::GAUGE => sample(name, labels, None, metric.get_gauge().get_value(), to),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let bucket = format!("{name}_bucket");
            for each in histogram.get_bucket() {
                let bound = canonical(each.upper_bound());
                sample(&bucket, labels, Some(&bound), whole(each.cumulative_count()), to);
            }
            let count = whole(histogram.get_sample_count());
            sample(&bucket, labels, Some("+Inf"), count, to);
            sample(&format!("{name}_count"), labels, None, count, to);
            sample(&format!("{name}_sum"), labels, None, histogram.get_sample_sum(), to);
        }
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has only f64, which holds 2^53 exactly")]
fn whole(count: u64) -> f64 {
    count as f64
}

/// OpenMetrics writes bounds as floating point numbers: `1.0`, not `1`.
fn canonical(bound: f64) -> String {
    format!("{bound:?}")
}

fn sample(name: &str, labels: &[LabelPair], bound: Option<&str>, value: f64, to: &mut String) {
    to.push_str(name);
    let pairs = labels.iter().map(|pair| (pair.name(), pair.value())).chain(bound.map(|bound| ("le", bound)));
    let mut open = '{';
    for (name, value) in pairs {
        to.push(open);
        to.push_str(name);
        to.push_str("=\"");
        escape(value, to);
        to.push('"');
        open = ',';
    }
    if open == ',' {
        to.push('}');
    }
    let _ = writeln!(to, " {value}");
}

fn escape(text: &str, to: &mut String) {
    for letter in text.chars() {
        match letter {
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '"' => to.push_str("\\\""),
            other => to.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

    use super::*;

    #[test]
    fn families_are_encoded_as_specified() {
        let registry = Registry::new_custom(Some("t".to_owned()), None).unwrap();
        let counters = IntCounterVec::new(Opts::new("asked_total", "What\n\"was\" asked"), &["who"]).unwrap();
        counters.with_label_values(&["a\\b\"c\nd"]).inc();
        let options = HistogramOpts::new("took_seconds", "Took").buckets(vec![0.005, 1.0]);
        let took = HistogramVec::new(options, &["who"]).unwrap();
        took.with_label_values(&["x"]).observe(0.5);
        let gauge = IntGauge::new("full", "Fill").unwrap();
        registry.register(Box::new(counters)).unwrap();
        registry.register(Box::new(took)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        let mut text = String::new();
        encode(&registry.gather(), &mut text);
        let expected = r#"# TYPE t_asked counter
# HELP t_asked What\n\"was\" asked
t_asked_total{who="a\\b\"c\nd"} 1
# TYPE t_full gauge
# HELP t_full Fill
t_full 0
# TYPE t_took_seconds histogram
# UNIT t_took_seconds seconds
# HELP t_took_seconds Took
t_took_seconds_bucket{who="x",le="0.005"} 0
t_took_seconds_bucket{who="x",le="1.0"} 1
t_took_seconds_bucket{who="x",le="+Inf"} 1
t_took_seconds_count{who="x"} 1
t_took_seconds_sum{who="x"} 0.5
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn format_is_chosen_by_the_accept_header() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, ExpositionFormat::OpenMetrics),
            ("", ExpositionFormat::Text),
            ("*/*", ExpositionFormat::Text),
            ("text/html, garbage;;=;q, */*;q=0.8", ExpositionFormat::Text),
            ("application/openmetrics-text;version=0.0.1", ExpositionFormat::Text),
            ("application/openmetrics-text; q=0.2, text/plain", ExpositionFormat::Text),
            ("application/openmetrics-text;q=0", ExpositionFormat::Text),
        ] {
            assert_eq!(ExpositionFormat::accepted(accept), format, "{accept}");
        }
    }
}
