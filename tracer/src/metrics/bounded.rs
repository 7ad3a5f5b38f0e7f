//! A counter whose labels come from the wire, with a bound on its series: each open-ended label has a cap, all combinations
//! together have one, and idle series are dropped.

use std::{
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use prometheus::{IntCounter, IntCounterVec};

/// The label value of everything beyond a cap. No address, name or host begins like that.
pub(super) const OTHER: &str = "~other";
/// The time after which an idle series is dropped. It is longer than any window of the alert rules.
pub(super) const IDLE: Duration = Duration::from_hours(1);

/// Labels that are bounded together, such as an address and its port.
#[derive(Debug)]
pub(super) struct LabelGroup {
    name: &'static str,
    labels: Range<usize>,
    cap: usize,
    /// The number of series with these values.
    live: HashMap<Vec<String>, usize>,
}

impl LabelGroup {
    pub(super) fn new(name: &'static str, labels: Range<usize>, cap: usize) -> Self {
        Self { name, labels, cap, live: HashMap::default() }
    }
}

/// A counter with a bounded number of series.
#[derive(Debug)]
pub(super) struct BoundedCounter {
    counters: IntCounterVec,
    groups: Vec<LabelGroup>,
    cap: usize,
    /// By [`key_of`] the label values, so that a look-up formats no value.
    series: HashMap<Vec<u8>, Series>,
    /// A buffer for the key that is looked up.
    key: Vec<u8>,
    expired: IntCounter,
    folded: IntCounterVec,
}

#[derive(Debug)]
struct Series {
    counter: IntCounter,
    /// The label values, in the order of the labels.
    values: Vec<String>,
    /// When it last counted.
    last: Instant,
}

impl Series {
    fn inc(&mut self, now: Instant) {
        self.counter.inc();
        self.last = now;
    }
}

/// The value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelValue<'a> {
    Text(&'a str),
    Ip(IpAddr),
    Number(u16),
}

impl LabelValue<'_> {
    /// Appends an unambiguous encoding: the kind, then the value, whose end follows from the kind. Text ends with a NUL, which
    /// no label contains, because text from the wire is escaped.
    fn push_to(self, key: &mut Vec<u8>) {
        match self {
            Self::Text(value) => {
                key.push(b't');
                key.extend_from_slice(value.as_bytes());
                key.push(b'\0');
            }
            Self::Ip(IpAddr::V4(ip)) => {
                key.push(b'4');
                key.extend_from_slice(&ip.octets());
            }
            Self::Ip(IpAddr::V6(ip)) => {
                key.push(b'6');
                key.extend_from_slice(&ip.octets());
            }
            Self::Number(number) => {
                key.push(b'n');
                key.extend_from_slice(&number.to_ne_bytes());
            }
        }
    }

    fn into_string(self) -> String {
        match self {
            Self::Text(value) => value.to_owned(),
            Self::Ip(ip) => ip.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}

fn key_of<'a>(values: impl IntoIterator<Item = LabelValue<'a>>, key: &mut Vec<u8>) {
    key.clear();
    values.into_iter().for_each(|value| value.push_to(key));
}

fn strings(values: &[LabelValue<'_>]) -> Vec<String> {
    values.iter().map(|value| value.into_string()).collect()
}

/// Are these all [`OTHER`]? Such values do not count towards the cap.
fn is_other(values: &[LabelValue<'_>]) -> bool {
    values.iter().all(|value| *value == LabelValue::Text(OTHER))
}

impl BoundedCounter {
    /// `groups` are the open-ended labels; the others have a closed set of values. Beyond `cap` series, all groups are folded,
    /// which leaves at most one more series for each combination of the closed labels.
    pub(super) fn new(
        counters: IntCounterVec,
        groups: Vec<LabelGroup>,
        cap: usize,
        expired: IntCounter,
        folded: IntCounterVec,
    ) -> Self {
        Self { counters, groups, cap, series: HashMap::default(), key: Vec::new(), expired, folded }
    }

    /// Adds one.
    pub(super) fn inc<'a>(
        &mut self,
        values: impl IntoIterator<Item = LabelValue<'a>, IntoIter: Clone>,
        now: Instant,
    ) {
        let values = values.into_iter();
        key_of(values.clone(), &mut self.key);
        if let Some(series) = self.series.get_mut(&self.key) {
            return series.inc(now);
        }
        self.admit(values.collect(), now);
        if let Some(series) = self.series.get_mut(&self.key) {
            series.inc(now);
        }
    }

    /// Makes a series, or folds its labels; [`Self::key`] is then the key of the series that counts.
    fn admit(&mut self, mut values: Vec<LabelValue<'_>>, now: Instant) {
        for LabelGroup { name, labels, cap, live } in &self.groups {
            let own = &mut values[labels.clone()];
            if live.len() >= *cap && !is_other(own) && !live.contains_key(&strings(own)) {
                own.fill(LabelValue::Text(OTHER));
                self.folded.with_label_values(&[name]).inc();
            }
        }
        key_of(values.iter().copied(), &mut self.key);
        if self.series.len() >= self.cap && !self.series.contains_key(&self.key) {
            for LabelGroup { labels, .. } in &self.groups {
                values[labels.clone()].fill(LabelValue::Text(OTHER));
            }
            key_of(values.iter().copied(), &mut self.key);
            self.folded.with_label_values(&["series"]).inc();
        }
        if self.series.contains_key(&self.key) {
            return;
        }
        for LabelGroup { labels, live, .. } in &mut self.groups {
            let own = &values[labels.clone()];
            if !is_other(own) {
                *live.entry(strings(own)).or_default() += 1;
            }
        }
        let values = strings(&values);
        let counter = self.counters.with_label_values(&values);
        self.series.insert(self.key.clone(), Series { counter, values, last: now });
    }

    /// Drops idle series.
    pub(super) fn expire(&mut self, now: Instant) {
        self.remove(|_, last| now.saturating_duration_since(last) >= IDLE);
    }

    /// Drops the series for which `gone` holds, given its label values and the time at which it last counted.
    pub(super) fn remove(&mut self, gone: impl Fn(&[String], Instant) -> bool) {
        let Self { counters, groups, series, expired, .. } = self;
        series.retain(|_, Series { values, last, .. }| {
            if !gone(values, *last) {
                return true;
            }
            // It fails only for a series that does not exist.
            let _ = counters.remove_label_values(values);
            for LabelGroup { labels, live, .. } in &mut *groups {
                let own = &values[labels.clone()];
                if let Some(count) = live.get_mut(own) {
                    *count -= 1;
                    if *count == 0 {
                        live.remove(own);
                    }
                }
            }
            expired.inc();
            false
        });
    }

    /// The number of series.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Opts, core::Collector};

    use super::*;

    fn bounded(cap: usize) -> BoundedCounter {
        let vec = |name: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, "h"), labels).unwrap();
        BoundedCounter::new(
            vec("c", &["verdict", "workload", "ip", "port"]),
            vec![LabelGroup::new("workload", 1..2, 3), LabelGroup::new("proxy", 2..4, 4)],
            cap,
            IntCounter::new("e", "h").unwrap(),
            vec("f", &["label"]),
        )
    }

    fn row(verdict: &str, workload: usize, ip: usize, port: usize) -> Vec<String> {
        vec![verdict.to_owned(), format!("w{workload}"), format!("10.0.0.{ip}"), port.to_string()]
    }

    fn inc(bounded: &mut BoundedCounter, row: &[String], now: Instant) {
        bounded.inc(row.iter().map(|value| LabelValue::Text(value)), now);
    }

    /// The sum over all series as a scrape sees it, and their number.
    fn exposed(bounded: &BoundedCounter) -> (u64, usize) {
        let families = bounded.counters.collect();
        let metrics = families[0].get_metric();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
        let sum = metrics.iter().map(|metric| metric.get_counter().get_value() as u64).sum();
        (sum, metrics.len())
    }

    #[test]
    fn hundred_thousand_addresses_make_a_bounded_number_of_series_and_lose_no_count() {
        let (mut bounded, now) = (bounded(1000), Instant::now());
        for n in 0..100_000 {
            inc(&mut bounded, &row("tunneled", 0, n, 3128), now);
        }
        assert_eq!(exposed(&bounded), (100_000, 5), "four addresses, and ~other");
        assert_eq!(bounded.folded.with_label_values(&["proxy"]).get(), 100_000 - 4);
    }

    #[test]
    fn combinations_have_a_cap() {
        let (mut bounded, now) = (bounded(6), Instant::now());
        for verdict in ["a", "b"] {
            for workload in 0..3 {
                for ip in 0..4 {
                    inc(&mut bounded, &row(verdict, workload, ip, 1), now);
                }
            }
        }
        assert_eq!(exposed(&bounded), (24, 6 + 2), "six, and one for each closed label");
        assert_eq!(bounded.folded.with_label_values(&["series"]).get(), 18);
    }

    #[test]
    fn idle_series_are_dropped_and_make_room() {
        let (mut bounded, start) = (bounded(1000), Instant::now());
        for ip in 0..4 {
            inc(&mut bounded, &row("a", 0, ip, 1), start);
        }
        let later = start + IDLE / 2;
        inc(&mut bounded, &row("a", 0, 0, 1), later);
        bounded.expire(start + IDLE);
        assert_eq!((bounded.len(), bounded.expired.get()), (1, 3));
        inc(&mut bounded, &row("a", 0, 77, 1), start + IDLE);
        assert!(
            bounded.series.values().any(|series| series.values == row("a", 0, 77, 1)),
            "there is room again"
        );
        assert_eq!(bounded.folded.with_label_values(&["proxy"]).get(), 0);
    }

    #[test]
    fn removed_series_are_not_exposed() {
        let (mut bounded, now) = (bounded(1000), Instant::now());
        inc(&mut bounded, &row("a", 0, 0, 1), now);
        inc(&mut bounded, &row("a", 1, 0, 1), now);
        bounded.remove(|values, _| values[1] == "w0");
        assert_eq!(exposed(&bounded), (1, 1));
        assert_eq!(bounded.groups[0].live.len(), 1);
        assert_eq!(bounded.groups[1].live.values().sum::<usize>(), 1);
    }
}
