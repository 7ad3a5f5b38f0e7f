//! What is going on, by (workload, proxy, host asked for, verdict): how often in the last minute, how often in all, when
//! last, and the latest report of each, which explains it. Its size is bounded; time is given to it.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    net::SocketAddr,
};

use jiff::Timestamp;

use tracer_core::{
    report::{Loser, Message, Report},
    verdict::Verdict,
};

/// More rows than anybody reads; for one more, the one that was seen longest ago goes.
const ROWS: usize = 2_000;
/// A row counts its last minute in pieces of so many seconds.
const PIECE: i64 = 5;
const PIECES: i64 = 12;
/// The same, to index by.
const SLOTS: usize = 12;

/// What a row is about. Everything in it is safe for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Workload with its namespace; pod or program where there is none.
    pub workload: String,
    /// The proxy.
    pub proxy: SocketAddr,
    /// What was asked for.
    pub host: String,
    /// What became of it.
    pub verdict: Verdict,
}

/// A row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Sessions since the beginning.
    pub total: u64,
    /// When the last one was asked for, in seconds since the epoch.
    pub last: i64,
    /// The last one.
    pub report: Box<Report>,
    pieces: [u32; SLOTS],
    /// The number of the latest piece.
    piece: i64,
}

impl Row {
    /// Sessions in the minute before `now`, in seconds since the epoch.
    pub fn last_minute(&self, now: i64) -> u32 {
        let first = now.div_euclid(PIECE) - PIECES + 1;
        let pieces = (self.piece - PIECES + 1).max(first)..=self.piece;
        pieces.map(|piece| self.pieces[slot(piece)]).sum()
    }

    fn count(&mut self, time: i64) {
        let piece = time.div_euclid(PIECE);
        // Another minute's counts lie where this one's are to be.
        for passed in (self.piece + 1..=piece).rev().take(SLOTS) {
            self.pieces[slot(passed)] = 0;
        }
        self.piece = self.piece.max(piece);
        if piece > self.piece - PIECES {
            self.pieces[slot(piece)] += 1;
        }
        self.total += 1;
        self.last = self.last.max(time);
    }
}

fn slot(piece: i64) -> usize {
    usize::try_from(piece.rem_euclid(PIECES)).unwrap_or_default()
}

/// By which column rows are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Flagged ones first, then by when they were last seen.
    #[default]
    Flagged,
    /// The latest first.
    Last,
    /// The most in the last minute first.
    Minute,
    /// The most in all first.
    Total,
    /// By name.
    Workload,
}

impl Sort {
    /// The next one.
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

    /// In a word or two.
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
#[derive(Clone, Default)]
pub struct Board {
    rows: HashMap<Key, Row>,
    /// Sessions in all, and how many of them were flagged.
    pub sessions: (u64, u64),
    /// Records lost in the kernel or unread, and reports that were not read in time.
    pub lost: (u64, u64),
}

impl Board {
    /// Takes a line of the stream in.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Gap(gap) => match gap.lost.source {
                Loser::Kernel | Loser::Userspace => self.lost.0 += gap.lost.count,
                Loser::Reader => self.lost.1 += gap.lost.count,
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
            host: report.asked_for(),
            verdict: report.verdict,
        };
        if let Some(row) = self.rows.get_mut(&key) {
            row.count(time);
            row.report = report;
            return;
        }
        if self.rows.len() >= ROWS {
            let oldest = self.rows.iter().min_by_key(|(_, row)| row.last).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.rows.remove(&oldest));
        }
        let piece = time.div_euclid(PIECE);
        let mut row = Row { total: 0, last: time, report, pieces: [0; SLOTS], piece };
        row.count(time);
        self.rows.insert(key, row);
    }

    /// The rows to show, in order: those in which `text` occurs, and flagged ones alone where asked for.
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

    /// A row.
    pub fn row(&self, key: &Key) -> Option<&Row> {
        self.rows.get(key)
    }
}

impl Key {
    fn contains(&self, text: &str) -> bool {
        let Self { workload, proxy, host, verdict } = self;
        let here = |part: &str| part.to_lowercase().contains(text);
        here(workload) || here(host) || here(verdict.name()) || here(&proxy.to_string())
    }
}
