//! Sessions counted by workload, proxy, host and verdict: in the last minute, in all, when last, with the latest report
//! of each row. Its size is bounded; callers pass the time.

use std::{
    cmp::{Ordering, Reverse},
    net::SocketAddr,
    num::NonZeroUsize,
};

use jiff::Timestamp;
use lru::LruCache;

use tracer_core::{
    report::{LossSource, Message, Report},
    verdict::Verdict,
};

/// The most rows; a further one replaces the row that was seen longest ago.
const MAX_ROWS: NonZeroUsize = NonZeroUsize::new(2_000).unwrap();
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
    /// The host that the app asked for.
    pub host: String,
    /// What became of the sessions.
    pub verdict: Verdict,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Flagged rows first, then the latest.
    #[default]
    Flagged,
    /// The latest row first.
    Last,
    /// The row with most sessions in the last minute first.
    Minute,
    /// The row with most sessions in all first.
    Total,
    /// By name.
    Workload,
}

impl Sort {
    /// The next column, in a circle.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Flagged => Self::Last,
            Self::Last => Self::Minute,
            Self::Minute => Self::Total,
            Self::Total => Self::Workload,
            Self::Workload => Self::Flagged,
        }
    }

    /// The column's name for the footer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flagged => "flagged first",
            Self::Last => "last seen",
            Self::Minute => "last minute",
            Self::Total => "total",
            Self::Workload => "workload",
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
}

impl Default for State {
    fn default() -> Self {
        Self { rows: LruCache::new(MAX_ROWS), sessions: (0, 0), lost: (0, 0) }
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
            host: report.target(),
            verdict: report.verdict,
        };
        if let Some(row) = self.rows.get_mut(&key) {
            row.count(time);
            row.report = report;
            return;
        }
        let bucket = time.div_euclid(BUCKET_SECONDS);
        let mut row = Row { total: 0, last: time, report, buckets: [0; BUCKETS], bucket };
        row.count(time);
        self.rows.push(key, row);
    }

    /// The rows to show, in order: those in which `text` occurs, and with `flagged` only flagged ones.
    pub fn rows(&self, sort: Sort, reverse: bool, text: &str, flagged: bool, now: i64) -> Vec<(&Key, &Row)> {
        let text = text.to_lowercase();
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .filter(|(key, row)| (!flagged || row.report.flagged) && (text.is_empty() || key.contains(&text)))
            .collect();
        rows.sort_by(|(one, a), (other, b)| {
            let order = match sort {
                Sort::Flagged => {
                    let rank = |row: &Row| (Reverse(row.report.flagged), Reverse(row.last));
                    rank(a).cmp(&rank(b))
                }
                Sort::Last => b.last.cmp(&a.last),
                Sort::Minute => b.last_minute(now).cmp(&a.last_minute(now)),
                Sort::Total => b.total.cmp(&a.total),
                Sort::Workload => Ordering::Equal,
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

impl Key {
    fn contains(&self, text: &str) -> bool {
        let Self { workload, proxy, host, verdict } = self;
        let here = |part: &str| part.to_lowercase().contains(text);
        here(workload) || here(host) || here(verdict.name()) || here(&proxy.to_string())
    }
}
