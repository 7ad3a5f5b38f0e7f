//! A counter whose labels come from the wire, kept small: each open-ended label has a cap, all combinations together
//! have one, and what was not counted for an hour is dropped. It knows no reports.

use std::{
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use foldhash::HashMap;
use prometheus::{IntCounter, IntCounterVec};

use crate::address;

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
    /// By the values of its labels, each with an [`END`]: a look-up is one of one string, wherever the values come from.
    series: HashMap<String, Series>,
    /// The one that is looked up.
    key: String,
    expired: IntCounter,
    folded: IntCounterVec,
}

#[derive(Debug)]
struct Series {
    counter: IntCounter,
    /// When it was last counted in.
    last: Instant,
}

/// The value of a label.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Ip(IpAddr),
    Number(u16),
}

impl Value<'_> {
    fn push_to(self, text: &mut String) {
        match self {
            Self::Text(value) => text.push_str(value),
            Self::Ip(ip) => address::push_ip(text, ip),
            Self::Number(number) => address::push_number(text, number),
        }
    }

    fn into_string(self) -> String {
        let mut text = String::new();
        self.push_to(&mut text);
        text
    }
}

/// Behind each value of a key; what comes from the wire was escaped, so no value has one.
const END: char = '\0';

fn key_of(values: &[String]) -> String {
    values.iter().flat_map(|value| [value, "\0"]).collect()
}

/// The value of a key's `nth` label.
pub(super) fn value(key: &str, nth: usize) -> &str {
    key.split(END).nth(nth).unwrap_or_default()
}

fn values_of(key: &str) -> Vec<String> {
    key.split_terminator(END).map(str::to_owned).collect()
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
        Self { counters, groups, cap, series: HashMap::default(), key: String::new(), expired, folded }
    }

    /// Counts one.
    pub(super) fn inc<'a>(
        &mut self,
        values: impl IntoIterator<Item = Value<'a>, IntoIter: Clone>,
        now: Instant,
    ) {
        let values = values.into_iter();
        let Self { series, key, .. } = self;
        key.clear();
        for value in values.clone() {
            value.push_to(key);
            key.push(END);
        }
        if let Some(series) = series.get_mut(key.as_str()) {
            series.counter.inc();
            series.last = now;
            return;
        }
        let (key, values) = self.admit(values.map(Value::into_string).collect());
        let counter = self.counters.with_label_values(&values);
        counter.inc();
        self.series.insert(key, Series { counter, last: now });
    }

    /// Makes room for a series, or names the one that stands for it: its key and values.
    fn admit(&mut self, mut values: Vec<String>) -> (String, Vec<String>) {
        for Group { name, labels, cap, live } in &self.groups {
            let own = &mut values[labels.clone()];
            if live.len() >= *cap && !live.contains_key(&*own) && own.iter().any(|value| value != OTHER) {
                own.fill(OTHER.to_owned());
                self.folded.with_label_values(&[name]).inc();
            }
        }
        let mut key = key_of(&values);
        if self.series.len() >= self.cap && !self.series.contains_key(&key) {
            for Group { labels, .. } in &self.groups {
                values[labels.clone()].fill(OTHER.to_owned());
            }
            key = key_of(&values);
            self.folded.with_label_values(&["series"]).inc();
        }
        if !self.series.contains_key(&key) {
            for Group { labels, live, .. } in &mut self.groups {
                let own = &values[labels.clone()];
                // `~other` takes nobody's place.
                if own.iter().any(|value| value != OTHER) {
                    *live.entry(own.to_vec()).or_default() += 1;
                }
            }
        }
        (key, values)
    }

    /// Drops what was idle for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.remove(|_, last| now.saturating_duration_since(last) >= IDLE);
    }

    /// Drops the series for whose key, of which [`value`] gives a label's, `gone` holds.
    pub(super) fn remove(&mut self, gone: impl Fn(&str, Instant) -> bool) {
        let Self { counters, groups, series, expired, .. } = self;
        series.retain(|key, Series { last, .. }| {
            if !gone(key, *last) {
                return true;
            }
            let values = values_of(key);
            // It fails only for a series that is not there, which is what is wanted.
            let _ = counters.remove_label_values(&values);
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
        assert!(bounded.series.contains_key(&key_of(&row("a", 0, 77, 1))), "there is room again");
        assert_eq!(bounded.folded.with_label_values(&["destination"]).get(), 0);
    }

    #[test]
    fn what_is_removed_is_no_longer_exposed() {
        let (mut bounded, now) = (bounded(1000), Instant::now());
        inc(&mut bounded, &row("a", 0, 0, 1), now);
        inc(&mut bounded, &row("a", 1, 0, 1), now);
        bounded.remove(|key, _| value(key, 1) == "w0");
        assert_eq!(exposed(&bounded), (1, 1));
        assert_eq!(bounded.groups[0].live.len(), 1);
        assert_eq!(bounded.groups[1].live.values().sum::<usize>(), 1);
    }
}
