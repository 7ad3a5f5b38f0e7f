//! Sessions counted by what caused their result: in the last minute, in all, when last, with the hosts that were asked for and the
//! latest report of each row. Its size is bounded; callers pass the time.

use std::{cmp::Reverse, collections::BTreeSet, net::SocketAddr, num::NonZeroUsize};

use jiff::Timestamp;
use lru::LruCache;
use strum::VariantArray as _;

use tracer_core::{
    report::{LossSource, Message, Report},
    verdict::{Reason, Verdict},
};

/// The most rows; a further one replaces the row that was seen longest ago.
const MAX_ROWS: NonZeroUsize = NonZeroUsize::new(2_000).unwrap();
/// The most hosts that a row names; of further ones it only knows that there are some.
const MAX_HOSTS: usize = 32;
/// A row counts its last minute in buckets of so many seconds.
const BUCKET_SECONDS: i64 = 5;
const BUCKETS: usize = 12;
#[expect(clippy::cast_possible_wrap, reason = "it is 12")]
const SIGNED_BUCKETS: i64 = BUCKETS as i64;

/// What a row counts. Every field is safe for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Workload with its namespace; pod or program where it has none.
    pub workload: String,
    /// The proxy.
    pub proxy: SocketAddr,
    /// What became of the sessions.
    pub verdict: Verdict,
    /// Its reason.
    pub reason: Option<Reason>,
    /// The status that the app got.
    pub status: Option<u16>,
    /// The object at fault, where it is known.
    pub cause: String,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Sessions since the start.
    pub total: u64,
    /// When the last request was sent, in seconds since the epoch.
    pub last: i64,
    /// The latest report.
    pub report: Box<Report>,
    hosts: BTreeSet<String>,
    has_more_hosts: bool,
    buckets: [u32; BUCKETS],
    /// The number of the latest bucket.
    bucket: i64,
}

impl Row {
    /// Sessions in the minute before `now`, in seconds since the epoch.
    pub fn last_minute(&self, now: i64) -> u32 {
        let first = now.div_euclid(BUCKET_SECONDS) - SIGNED_BUCKETS + 1;
        let buckets = (self.bucket - SIGNED_BUCKETS + 1).max(first)..=self.bucket;
        buckets.map(|bucket| self.buckets[slot(bucket)]).sum()
    }

    /// The host that was asked for, or how many there were.
    pub fn hosts(&self) -> String {
        match (self.hosts.len(), self.hosts.first()) {
            (1, Some(host)) => host.clone(),
            (count, _) => format!("{count}{} hosts", if self.has_more_hosts { "+" } else { "" }),
        }
    }

    fn note_host(&mut self, host: String) {
        if self.hosts.len() < MAX_HOSTS {
            self.hosts.insert(host);
        } else {
            self.has_more_hosts |= !self.hosts.contains(&host);
        }
    }

    fn count(&mut self, time: i64) {
        let bucket = time.div_euclid(BUCKET_SECONDS);
        // The slots of the new buckets still hold counts of an earlier minute.
        for passed in (self.bucket + 1..=bucket).rev().take(BUCKETS) {
            self.buckets[slot(passed)] = 0;
        }
        self.bucket = self.bucket.max(bucket);
        if bucket > self.bucket - SIGNED_BUCKETS {
            self.buckets[slot(bucket)] += 1;
        }
        self.total += 1;
        self.last = self.last.max(time);
    }
}

fn slot(bucket: i64) -> usize {
    usize::try_from(bucket.rem_euclid(SIGNED_BUCKETS)).unwrap_or_default()
}

/// The column by which rows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::VariantArray)]
pub enum Sort {
    /// Flagged rows first, then the latest.
    #[default]
    Flagged,
    /// By the app's name.
    App,
    /// By the proxy's address.
    Proxy,
    /// By verdict and status.
    Result,
    /// The row with most hosts first.
    Hosts,
    /// By the object at fault.
    Cause,
    /// The row with most sessions in the last minute first.
    Minute,
    /// The row with most sessions in all first.
    Total,
    /// The latest row first.
    Last,
}

impl Sort {
    /// The column that is so many columns to the right, in a circle.
    #[must_use]
    pub fn next(self, columns: usize) -> Self {
        let all = Self::VARIANTS;
        let at = all.iter().position(|sort| *sort == self).unwrap_or_default();
        all[(at + columns) % all.len()]
    }

    /// The previous column.
    #[must_use]
    pub fn previous(self) -> Self {
        self.next(Self::VARIANTS.len() - 1)
    }

    /// The column's name for the footer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flagged => "flagged first",
            Self::App => "app",
            Self::Proxy => "proxy",
            Self::Result => "result",
            Self::Hosts => "hosts",
            Self::Cause => "cause",
            Self::Minute => "last minute",
            Self::Total => "total",
            Self::Last => "last seen",
        }
    }
}

/// All rows.
#[derive(Clone)]
pub struct State {
    rows: LruCache<Key, Row>,
    /// Sessions in all, and how many of them were flagged.
    pub sessions: (u64, u64),
    /// Records lost in the kernel or unread, and reports that were not read in time.
    pub lost: (u64, u64),
    /// Requests that wait for their answer, where that is known.
    pub waiting: Option<usize>,
}

impl Default for State {
    fn default() -> Self {
        Self { rows: LruCache::new(MAX_ROWS), sessions: (0, 0), lost: (0, 0), waiting: None }
    }
}

impl State {
    /// Counts a message of the stream.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Gap(gap) => match gap.lost.source {
                LossSource::Kernel | LossSource::Userspace => self.lost.0 += gap.lost.count,
                LossSource::Reader => self.lost.1 += gap.lost.count,
            },
            Message::Report(report) => self.count(report),
        }
    }

    fn count(&mut self, report: Box<Report>) {
        let time = report.time.parse::<Timestamp>().map_or(0, Timestamp::as_second);
        self.sessions.0 += 1;
        self.sessions.1 += u64::from(report.flagged);
        let key = Key {
            workload: report.workload(),
            proxy: report.proxy.into(),
            verdict: report.verdict,
            reason: report.reason,
            status: report.reply.as_ref().and_then(|reply| reply.status),
            cause: report.cause(),
        };
        let host = report.asked_for();
        if let Some(row) = self.rows.get_mut(&key) {
            row.count(time);
            row.note_host(host);
            row.report = report;
            return;
        }
        let bucket = time.div_euclid(BUCKET_SECONDS);
        let mut row = Row {
            total: 0,
            last: time,
            report,
            hosts: BTreeSet::from([host]),
            has_more_hosts: false,
            buckets: [0; BUCKETS],
            bucket,
        };
        row.count(time);
        self.rows.push(key, row);
    }

    /// The rows to show, in order: those in which `text` occurs, and with `flagged` only flagged ones.
    pub fn rows(&self, sort: Sort, reverse: bool, text: &str, flagged: bool, now: i64) -> Vec<(&Key, &Row)> {
        let text = text.to_lowercase();
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .filter(|(key, row)| {
                (!flagged || row.report.flagged) && (text.is_empty() || contains(key, row, &text))
            })
            .collect();
        rows.sort_by(|(one, a), (other, b)| {
            let order = match sort {
                Sort::Flagged => {
                    let rank = |row: &Row| (Reverse(row.report.flagged), Reverse(row.last));
                    rank(a).cmp(&rank(b))
                }
                Sort::App => one.workload.cmp(&other.workload),
                Sort::Proxy => one.proxy.cmp(&other.proxy),
                Sort::Result => (one.verdict, one.status, one.reason.map(Reason::name)).cmp(&(
                    other.verdict,
                    other.status,
                    other.reason.map(Reason::name),
                )),
                Sort::Hosts => b.hosts.len().cmp(&a.hosts.len()),
                Sort::Cause => one.cause.cmp(&other.cause),
                Sort::Minute => b.last_minute(now).cmp(&a.last_minute(now)),
                Sort::Total => b.total.cmp(&a.total),
                Sort::Last => b.last.cmp(&a.last),
            };
            let order = order.then_with(|| one.cmp(other));
            if reverse { order.reverse() } else { order }
        });
        rows
    }

    /// The row of `key`.
    pub fn row(&self, key: &Key) -> Option<&Row> {
        self.rows.peek(key)
    }
}

/// Whether a row has this text, in lower case.
fn contains(key: &Key, row: &Row, text: &str) -> bool {
    let here = |part: &str| part.to_lowercase().contains(text);
    here(&key.workload)
        || here(key.verdict.name())
        || here(&key.cause)
        || here(&key.proxy.to_string())
        || here(&row.report.result())
        || row.hosts.iter().any(|host| here(host))
}
