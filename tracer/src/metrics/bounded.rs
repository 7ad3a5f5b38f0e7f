//! A counter whose labels come from the wire, with a bound on its series: each open-ended label has a cap within a tenant (a
//! namespace), all combinations together have one, of which each tenant has a fair share, and idle series are dropped.

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
}

impl LabelGroup {
    /// `cap`: the most values of one tenant.
    pub(super) fn new(name: &'static str, labels: Range<usize>, cap: usize) -> Self {
        Self { name, labels, cap }
    }
}

/// The series of one tenant.
#[derive(Debug, Default)]
struct Tenant {
    series: usize,
    /// For each group of labels, the number of series with these values.
    live: Vec<HashMap<Vec<String>, usize>>,
}

/// A counter with a bounded number of series.
#[derive(Debug)]
pub(super) struct BoundedCounter {
    counters: IntCounterVec,
    /// Which label is the tenant.
    tenant: usize,
    /// The most tenants.
    tenant_cap: usize,
    groups: Vec<LabelGroup>,
    cap: usize,
    tenants: HashMap<String, Tenant>,
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
    /// `tenant` is the label that names the tenant, and `groups` are the other open-ended ones; the rest have a closed set of
    /// values. Beyond `cap` series, a tenant with less than its share takes the place of the oldest series of the tenant with
    /// the most. One with its share has all these labels folded, which leaves at most one more series for each combination of
    /// the closed labels.
    pub(super) fn new(
        counters: IntCounterVec,
        (tenant, tenant_cap): (usize, usize),
        groups: Vec<LabelGroup>,
        cap: usize,
        expired: IntCounter,
        folded: IntCounterVec,
    ) -> Self {
        let (tenants, series) = (HashMap::default(), HashMap::default());
        Self { counters, tenant, tenant_cap, groups, cap, tenants, series, key: Vec::new(), expired, folded }
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
        let mut tenant = values[self.tenant].into_string();
        if self.tenants.len() >= self.tenant_cap && !self.tenants.contains_key(&tenant) {
            values[self.tenant] = LabelValue::Text(OTHER);
            OTHER.clone_into(&mut tenant);
            self.folded.with_label_values(&["source_namespace"]).inc();
        }
        let known = self.tenants.get(&tenant);
        for (nth, LabelGroup { name, labels, cap }) in self.groups.iter().enumerate() {
            let own = &mut values[labels.clone()];
            let live = known.and_then(|known| known.live.get(nth));
            let is_full = live.is_some_and(|live| live.len() >= *cap && !live.contains_key(&strings(own)));
            if is_full && !is_other(own) {
                own.fill(LabelValue::Text(OTHER));
                self.folded.with_label_values(&[name]).inc();
            }
        }
        key_of(values.iter().copied(), &mut self.key);
        let has_room = self.series.len() < self.cap || self.series.contains_key(&self.key);
        if !has_room && !self.make_room(&tenant) {
            values[self.tenant] = LabelValue::Text(OTHER);
            OTHER.clone_into(&mut tenant);
            for LabelGroup { labels, .. } in &self.groups {
                values[labels.clone()].fill(LabelValue::Text(OTHER));
            }
            key_of(values.iter().copied(), &mut self.key);
            self.folded.with_label_values(&["series"]).inc();
        }
        if self.series.contains_key(&self.key) {
            return;
        }
        let Self { tenants, groups, .. } = self;
        let of_tenant = tenants.entry(tenant).or_default();
        of_tenant.series += 1;
        of_tenant.live.resize_with(groups.len(), HashMap::default);
        for (LabelGroup { labels, .. }, live) in groups.iter().zip(&mut of_tenant.live) {
            let own = &values[labels.clone()];
            if !is_other(own) {
                *live.entry(strings(own)).or_default() += 1;
            }
        }
        let values = strings(&values);
        let counter = self.counters.with_label_values(&values);
        self.series.insert(self.key.clone(), Series { counter, values, last: now });
    }

    /// Drops the oldest series of the tenant with the most, if `tenant` has less than its share.
    fn make_room(&mut self, tenant: &str) -> bool {
        let own = self.tenants.get(tenant).map_or(0, |own| own.series);
        let others = self.tenants.len() + usize::from(own == 0);
        let most = self.tenants.iter().max_by_key(|(_, each)| each.series);
        let Some((most, of_most)) = most.map(|(name, each)| (name.clone(), each.series)) else {
            return false;
        };
        if tenant == OTHER || own >= self.cap / others.max(1) || own >= of_most {
            return false;
        }
        let of_most = self.series.values().filter(|series| series.values[self.tenant] == most);
        let Some(oldest) = of_most.min_by_key(|series| series.last).map(|series| series.values.clone())
        else {
            return false;
        };
        self.remove(|values, _| *values == oldest);
        true
    }

    /// Drops idle series.
    pub(super) fn expire(&mut self, now: Instant) {
        self.remove(|_, last| now.saturating_duration_since(last) >= IDLE);
    }

    /// Drops the series for which `gone` holds, given its label values and the time at which it last counted.
    pub(super) fn remove(&mut self, gone: impl Fn(&[String], Instant) -> bool) {
        let Self { counters, tenant, tenants, groups, series, expired, .. } = self;
        series.retain(|_, Series { values, last, .. }| {
            if !gone(values, *last) {
                return true;
            }
            // It fails only for a series that does not exist.
            let _ = counters.remove_label_values(values);
            expired.inc();
            let Some(of_tenant) = tenants.get_mut(&values[*tenant]) else { return false };
            for (LabelGroup { labels, .. }, live) in groups.iter().zip(&mut of_tenant.live) {
                let own = &values[labels.clone()];
                if let Some(count) = live.get_mut(own) {
                    *count -= 1;
                    if *count == 0 {
                        live.remove(own);
                    }
                }
            }
            of_tenant.series -= 1;
            if of_tenant.series == 0 {
                tenants.remove(&values[*tenant]);
            }
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
            vec("c", &["verdict", "namespace", "workload", "ip", "port"]),
            (1, 4),
            vec![LabelGroup::new("workload", 2..3, 3), LabelGroup::new("proxy", 3..5, 4)],
            cap,
            IntCounter::new("e", "h").unwrap(),
            vec("f", &["label"]),
        )
    }

    fn row(verdict: &str, workload: usize, ip: usize, port: usize) -> Vec<String> {
        row_of("shop", verdict, workload, ip, port)
    }

    fn row_of(namespace: &str, verdict: &str, workload: usize, ip: usize, port: usize) -> Vec<String> {
        let (workload, ip) = (format!("w{workload}"), format!("10.0.0.{ip}"));
        vec![verdict.to_owned(), namespace.to_owned(), workload, ip, port.to_string()]
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
        bounded.remove(|values, _| values[2] == "w0");
        assert_eq!(exposed(&bounded), (1, 1));
        let shop = &bounded.tenants["shop"];
        assert_eq!((shop.series, shop.live[0].len(), shop.live[1].values().sum::<usize>()), (1, 1, 1));
        bounded.remove(|_, _| true);
        assert!(bounded.tenants.is_empty());
    }

    fn has(bounded: &BoundedCounter, row: &[String]) -> bool {
        bounded.series.values().any(|series| series.values == row)
    }

    /// A pod that dials thousands of addresses must not hide the next failure of another namespace for an hour.
    #[test]
    fn one_namespace_cannot_fold_the_labels_of_another() {
        let (mut bounded, now) = (bounded(12), Instant::now());
        for n in 0..2_700 {
            inc(&mut bounded, &row_of("hostile", &format!("v{}", n % 5), n, n, n), now);
        }
        assert!(bounded.len() <= 12 + 5, "{}", bounded.len());
        for ip in 0..4 {
            let own = row_of("shop", "a", 0, ip, 3128);
            inc(&mut bounded, &own, now);
            assert!(has(&bounded, &own), "{ip}: its own labels");
        }
        for namespace in ["bank", "mail"] {
            let own = row_of(namespace, "a", 0, 0, 3128);
            inc(&mut bounded, &own, now);
            assert!(has(&bounded, &own), "{namespace}: its own labels");
            assert!(has(&bounded, &row_of("shop", "a", 0, 2, 3128)), "{namespace} takes no place of another");
        }
        assert!(bounded.len() <= 12 + 5, "{}", bounded.len());
    }
}
