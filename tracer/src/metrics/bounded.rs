//! A counter whose labels come from the wire, kept small: each open-ended label has a cap, all combinations together
//! have one, and what was not counted for an hour is dropped. It knows no reports.

use std::{
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use prometheus::{IntCounter, IntCounterVec};

/// The label value of what has no series of its own. No address, name or host begins like that.
pub(super) const OTHER: &str = "~other";
/// Series in which nothing was counted for so long are dropped. Longer than any window of the alert rules.
pub(super) const IDLE: Duration = Duration::from_hours(1);

/// Labels that are bounded together, such as an address and its port.
#[derive(Debug)]
pub(super) struct Group {
    name: &'static str,
    labels: Range<usize>,
    cap: usize,
    /// How many live series have these values.
    live: HashMap<Vec<String>, usize>,
}

impl Group {
    pub(super) fn new(name: &'static str, labels: Range<usize>, cap: usize) -> Self {
        Self { name, labels, cap, live: HashMap::default() }
    }
}

/// The counter.
#[derive(Debug)]
pub(super) struct Bounded {
    counters: IntCounterVec,
    groups: Vec<Group>,
    cap: usize,
    /// By what [`key_of`] makes of the values of its labels: to look one up, none is written out.
    series: HashMap<Vec<u8>, Series>,
    /// The one that is looked up.
    key: Vec<u8>,
    expired: IntCounter,
    folded: IntCounterVec,
}

#[derive(Debug)]
struct Series {
    counter: IntCounter,
    /// Of its labels, in their order.
    values: Vec<String>,
    /// When it was last counted in.
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
pub(super) enum Value<'a> {
    Text(&'a str),
    Ip(IpAddr),
    Number(u16),
}

impl Value<'_> {
    /// Adds what tells it from every other: its kind, then the value, whose end its kind tells. (What comes from the wire was
    /// escaped, so that no text has a NUL.)
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

fn key_of<'a>(values: impl IntoIterator<Item = Value<'a>>, key: &mut Vec<u8>) {
    key.clear();
    values.into_iter().for_each(|value| value.push_to(key));
}

fn strings(values: &[Value<'_>]) -> Vec<String> {
    values.iter().map(|value| value.into_string()).collect()
}

/// Whether these are the labels of the shared series, which takes no slot.
fn is_other(values: &[Value<'_>]) -> bool {
    values.iter().all(|value| *value == Value::Text(OTHER))
}

impl Bounded {
    /// `groups` name the open-ended labels; the others have a closed set of values. `cap` is for series that are not
    /// folded altogether: of those, each combination of the closed labels may add one.
    pub(super) fn new(
        counters: IntCounterVec,
        groups: Vec<Group>,
        cap: usize,
        expired: IntCounter,
        folded: IntCounterVec,
    ) -> Self {
        Self { counters, groups, cap, series: HashMap::default(), key: Vec::new(), expired, folded }
    }

    /// Counts one.
    pub(super) fn inc<'a>(
        &mut self,
        values: impl IntoIterator<Item = Value<'a>, IntoIter: Clone>,
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

    /// Makes a series, or chooses the one that stands for it: [`Self::key`] is the key of that.
    fn admit(&mut self, mut values: Vec<Value<'_>>, now: Instant) {
        for Group { name, labels, cap, live } in &self.groups {
            let own = &mut values[labels.clone()];
            if live.len() >= *cap && !is_other(own) && !live.contains_key(&strings(own)) {
                own.fill(Value::Text(OTHER));
                self.folded.with_label_values(&[name]).inc();
            }
        }
        key_of(values.iter().copied(), &mut self.key);
        if self.series.len() >= self.cap && !self.series.contains_key(&self.key) {
            for Group { labels, .. } in &self.groups {
                values[labels.clone()].fill(Value::Text(OTHER));
            }
            key_of(values.iter().copied(), &mut self.key);
            self.folded.with_label_values(&["series"]).inc();
        }
        if self.series.contains_key(&self.key) {
            return;
        }
        for Group { labels, live, .. } in &mut self.groups {
            let own = &values[labels.clone()];
            if !is_other(own) {
                *live.entry(strings(own)).or_default() += 1;
            }
        }
        let values = strings(&values);
        let counter = self.counters.with_label_values(&values);
        self.series.insert(self.key.clone(), Series { counter, values, last: now });
    }

    /// Drops what was idle for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.remove(|_, last| now.saturating_duration_since(last) >= IDLE);
    }

    /// Drops the series for which `gone` holds, given the values of its labels and when it was last counted in.
    pub(super) fn remove(&mut self, gone: impl Fn(&[String], Instant) -> bool) {
        let Self { counters, groups, series, expired, .. } = self;
        series.retain(|_, Series { values, last, .. }| {
            if !gone(values, *last) {
                return true;
            }
            // It fails only for a series that is not there, which is what is wanted.
            let _ = counters.remove_label_values(values);
            for Group { labels, live, .. } in &mut *groups {
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

    /// How many series there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Opts, core::Collector};

    use super::*;

    fn bounded(cap: usize) -> Bounded {
        let vec = |name: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, "h"), labels).unwrap();
        Bounded::new(
            vec("c", &["verdict", "workload", "ip", "port"]),
            vec![Group::new("workload", 1..2, 3), Group::new("destination", 2..4, 4)],
            cap,
            IntCounter::new("e", "h").unwrap(),
            vec("f", &["label"]),
        )
    }

    fn row(verdict: &str, workload: usize, ip: usize, port: usize) -> Vec<String> {
        vec![verdict.to_owned(), format!("w{workload}"), format!("10.0.0.{ip}"), port.to_string()]
    }

    fn inc(bounded: &mut Bounded, row: &[String], now: Instant) {
        bounded.inc(row.iter().map(|value| Value::Text(value)), now);
    }

    /// The sum over all series, as a scrape would give it, and their number.
    fn exposed(bounded: &Bounded) -> (u64, usize) {
        let families = bounded.counters.collect();
        let metrics = families[0].get_metric();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
        let sum = metrics.iter().map(|metric| metric.get_counter().get_value() as u64).sum();
        (sum, metrics.len())
    }

    #[test]
    fn a_hundred_thousand_destinations_are_a_bounded_number_of_series_and_no_count_is_lost() {
        let (mut bounded, now) = (bounded(1000), Instant::now());
        for n in 0..100_000 {
            inc(&mut bounded, &row("tunneled", 0, n, 3128), now);
        }
        assert_eq!(exposed(&bounded), (100_000, 5), "four of their own, and ~other");
        assert_eq!(bounded.folded.with_label_values(&["destination"]).get(), 100_000 - 4);
    }

    #[test]
    fn combinations_have_a_cap_of_their_own() {
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
    fn what_is_idle_goes_and_gives_its_room_back() {
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
        assert_eq!(bounded.folded.with_label_values(&["destination"]).get(), 0);
    }

    #[test]
    fn what_is_removed_is_no_longer_exposed() {
        let (mut bounded, now) = (bounded(1000), Instant::now());
        inc(&mut bounded, &row("a", 0, 0, 1), now);
        inc(&mut bounded, &row("a", 1, 0, 1), now);
        bounded.remove(|values, _| values[1] == "w0");
        assert_eq!(exposed(&bounded), (1, 1));
        assert_eq!(bounded.groups[0].live.len(), 1);
        assert_eq!(bounded.groups[1].live.values().sum::<usize>(), 1);
    }
}
