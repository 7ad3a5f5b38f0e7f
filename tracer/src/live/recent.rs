//! The recent lines of the stream, in a ring of bounded size, and its readers. A reader is a position in the ring. It costs
//! nothing while it waits; when the ring has moved past its position, it learns how many lines it missed.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::query::Query;
use crate::pipeline::now;
use tracer_core::{
    filter::Filter,
    report::{Gap, LossSource, Message},
};

/// The most bytes of JSON in the ring.
const BYTES: usize = 4 << 20;
/// A reader takes about so many bytes at once.
const CHUNK: usize = 32 << 10;

/// The recent lines. Clones are handles to one ring.
#[derive(Clone)]
pub struct Recent(Rc<Shared>);

struct Shared {
    ring: RefCell<Ring>,
    /// The number of the next line; readers wait for it to change.
    next: watch::Sender<u64>,
}

struct Ring {
    lines: VecDeque<Rc<Line>>,
    /// The number of the first line.
    first: u64,
    bytes: usize,
    /// The most lines and bytes.
    limits: (usize, usize),
    /// A buffer for the JSON of a new line, from which it is copied into an allocation of its exact size.
    line: Vec<u8>,
}

struct Line {
    message: Message,
    json: Bytes,
}

impl Recent {
    /// An empty ring for so many lines, and for `BYTES` bytes.
    pub fn new(lines: usize) -> Self {
        Self::bounded(lines, BYTES)
    }

    fn bounded(lines: usize, bytes: usize) -> Self {
        let ring =
            Ring { lines: VecDeque::new(), first: 0, bytes: 0, limits: (lines, bytes), line: Vec::new() };
        Self(Rc::new(Shared { ring: RefCell::new(ring), next: watch::Sender::new(0) }))
    }

    /// Adds a line, and drops the oldest ones that are beyond the limits.
    pub fn push(&self, message: Message) {
        let mut ring = self.0.ring.borrow_mut();
        ring.line.clear();
        message.write_line(&mut ring.line);
        let json = Bytes::copy_from_slice(&ring.line);
        ring.bytes += json.len();
        ring.lines.push_back(Rc::new(Line { message, json }));
        let (most_lines, most_bytes) = ring.limits;
        while ring.lines.len() > most_lines || (ring.bytes > most_bytes && ring.lines.len() > 1) {
            if let Some(oldest) = ring.lines.pop_front() {
                ring.bytes -= oldest.json.len();
                ring.first += 1;
            }
        }
        drop(ring);
        self.0.next.send_modify(|next| *next += 1);
    }

    /// The number of lines and bytes in the ring.
    pub fn kept(&self) -> (usize, usize) {
        let ring = self.0.ring.borrow();
        (ring.lines.len(), ring.bytes)
    }

    /// The number of readers.
    pub fn readers(&self) -> usize {
        self.0.next.receiver_count()
    }

    /// A reader for a query.
    pub fn reader(&self, query: &Query) -> Reader {
        let next = self.0.next.subscribe();
        let (begin, end) = (self.begin(query), *next.borrow());
        Reader {
            recent: self.clone(),
            next,
            at: begin,
            end: (!query.follows()).then_some(end),
            filter: query.filter.clone(),
            period: Period::of(query),
        }
    }

    /// The number of the first line that a query asks for.
    fn begin(&self, query: &Query) -> u64 {
        let ring = self.0.ring.borrow();
        let end = ring.first + ring.lines.len() as u64;
        let period = Period::of(query);
        match query.last {
            None if period == Period::default() => end,
            None => ring.first,
            Some(last) => {
                let wanted = ring.lines.iter().rev().enumerate().filter(|(_, line)| {
                    matches!(line.message, Message::Report(_)) && wants(&query.filter, period, &line.message)
                });
                match usize::try_from(last).unwrap_or(usize::MAX).checked_sub(1) {
                    None => end,
                    Some(nth) => wanted
                        .take(nth.saturating_add(1))
                        .last()
                        .map_or(end, |(back, _)| end - 1 - back as u64),
                }
            }
        }
    }

    fn line(&self, at: u64) -> Result<Option<Rc<Line>>, u64> {
        let ring = self.0.ring.borrow();
        let back = at.checked_sub(ring.first).ok_or(ring.first)?;
        Ok(usize::try_from(back).ok().and_then(|back| ring.lines.get(back)).map(Rc::clone))
    }
}

/// When requests were sent that a reader wants. The default: at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Period {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Period {
    fn of(query: &Query) -> Self {
        Self { since: query.since, until: query.until }
    }

    fn contains(self, time: &str) -> bool {
        if self == Self::default() {
            return true;
        }
        time.parse::<Timestamp>().is_ok_and(|time| {
            self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
        })
    }
}

/// Is this message for a reader with this filter? A gap is for every reader.
fn wants(filter: &Filter, period: Period, message: &Message) -> bool {
    match message {
        Message::Gap(gap) => period.contains(&gap.time),
        Message::Report(report) => filter.matches(report) && period.contains(&report.time),
    }
}

/// A position in the ring, and what is read from there on.
pub struct Reader {
    recent: Recent,
    next: watch::Receiver<u64>,
    at: u64,
    end: Option<u64>,
    filter: Filter,
    period: Period,
}

impl Reader {
    /// Waits for matching lines, and returns about `CHUNK` bytes of them at most; `None`: the query has no more.
    pub async fn read(&mut self) -> Option<Bytes> {
        loop {
            self.next.borrow_and_update();
            let lines = self.read_now();
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.end.is_some_and(|end| self.at >= end) {
                return None;
            }
            self.next.changed().await.ok()?;
        }
    }

    fn read_now(&mut self) -> Bytes {
        let mut lines = Vec::new();
        while lines.len() < CHUNK && self.end.is_none_or(|end| self.at < end) {
            match self.recent.line(self.at) {
                Ok(Some(line)) => {
                    if wants(&self.filter, self.period, &line.message) {
                        lines.extend_from_slice(&line.json);
                    }
                    self.at += 1;
                }
                Ok(None) => break,
                Err(first) => {
                    Gap::new(now(), LossSource::Reader, "slow", first - self.at).write_line(&mut lines);
                    self.at = first;
                }
            }
        }
        lines.into()
    }
}

#[cfg(test)]
mod tests;
