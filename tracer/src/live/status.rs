//! What an agent is and has seen so far: it counts the reports that go out, and keeps them for readers.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};

use serde::{Deserialize, Serialize};

use super::{RELEASE, recent::Recent};
use crate::pipeline::now;
use tracer_core::{
    report::{Gap, LossSource, Message, Report},
    verdict::Verdict,
};

/// The state of an agent: `GET /v1/status`, and `egress-tracer status -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this format.
    pub v: u8,
    /// The agent's release.
    pub version: String,
    /// The node's name.
    pub node: Option<String>,
    /// The agent's process, in its own process namespace.
    pub pid: u32,
    /// When its hooks were attached: RFC 3339, UTC, microseconds.
    pub since: String,
    /// The family of hooks.
    pub probes: String,
    /// What is traced.
    pub scope: Scope,
    /// Reports since then, by verdict: all verdicts, also those that did not occur.
    pub sessions: BTreeMap<String, u64>,
    /// How many of them were flagged.
    pub flagged: u64,
    /// What was lost since then.
    pub lost: Vec<LossCount>,
    /// How many read along now.
    pub readers: usize,
    /// How many lines are kept for `--last` and `--since`.
    pub kept: usize,
    /// When the last report was made.
    pub last: Option<String>,
}

/// What is traced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Only sockets of this cgroup; null: all of the node's.
    pub cgroup: Option<PathBuf>,
    /// Only these network namespaces; empty: all.
    pub netns: Vec<PathBuf>,
    /// Only pods that meet all of these; empty: all, and what is in no pod.
    pub pods: Vec<String>,
}

/// What was lost where, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCount {
    /// Where.
    pub source: LossSource,
    /// Why.
    pub reason: String,
    /// How much.
    pub count: u64,
}

/// A running agent, as its readers see it. Clones are handles to the same.
#[derive(Clone)]
pub struct Live {
    recent: Recent,
    status: Rc<RefCell<Status>>,
}

impl Live {
    /// An agent that begins now and will keep so many lines for its readers.
    pub fn new(node: Option<String>, probes: &str, scope: Scope, keep: usize) -> Self {
        let status = Status {
            v: 1,
            version: RELEASE.to_owned(),
            node,
            pid: std::process::id(),
            since: now(),
            probes: probes.to_owned(),
            scope,
            sessions: Verdict::ALL.iter().map(|verdict| (verdict.name().to_owned(), 0)).collect(),
            flagged: 0,
            lost: Vec::new(),
            readers: 0,
            kept: 0,
            last: None,
        };
        Self { recent: Recent::new(keep), status: Rc::new(RefCell::new(status)) }
    }

    /// Counts a report, and sends it to the readers.
    pub fn report(&self, report: Box<Report>) {
        let mut status = self.status.borrow_mut();
        *status.sessions.entry(report.verdict.name().to_owned()).or_default() += 1;
        status.flagged += u64::from(report.flagged);
        status.last = Some(report.time.clone());
        drop(status);
        self.recent.push(Message::Report(report));
    }

    /// Says that something was lost.
    pub fn gap(&self, gap: Gap) {
        let (source, reason, count) = (gap.lost.source, &gap.lost.reason, gap.lost.count);
        let lost = &mut self.status.borrow_mut().lost;
        match lost.iter_mut().find(|loss| loss.source == source && loss.reason == *reason) {
            Some(loss) => loss.count += count,
            None => lost.push(LossCount { source, reason: reason.clone(), count }),
        }
        self.recent.push(Message::Gap(gap));
    }

    /// The recent lines.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// How it is now.
    pub fn status(&self) -> Status {
        let status = self.status.borrow().clone();
        Status { readers: self.recent.readers(), kept: self.recent.kept().0, ..status }
    }
}
