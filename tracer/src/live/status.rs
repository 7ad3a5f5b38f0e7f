//! The status of an agent: its settings, and what it has seen and lost so far.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};

use serde::{Deserialize, Serialize};

use super::{RELEASE, recent::Recent};
use crate::pipeline::now;
use tracer_core::{
    report::{Gap, LossSource, Message, Report},
    verdict::Verdict,
};

/// The status of an agent: `GET /v1/status`, and `egress-tracer status -o json`.
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
    /// The probe family.
    pub family: String,
    /// What is traced.
    pub scope: StatusScope,
    /// Reports since then, by verdict; verdicts that did not occur are 0.
    pub sessions: BTreeMap<String, u64>,
    /// How many of them were flagged.
    pub flagged: u64,
    /// What was lost since then.
    pub lost: Vec<LossCount>,
    /// The number of connected readers.
    pub readers: usize,
    /// The number of lines that are kept for `--last` and `--since`.
    pub kept: usize,
    /// The time of the last report.
    pub last: Option<String>,
    /// Requests that were seen and still wait for their answer. Null: an agent before 0.1.0.
    #[serde(default)]
    pub waiting: Option<usize>,
    /// Whether it asks sidecars for their configuration. Null: an agent before 0.1.0.
    #[serde(default)]
    pub explains: Option<bool>,
    /// The container runtime's socket, which tells the names of pods. Null: none was found.
    #[serde(default)]
    pub runtime: Option<String>,
}

/// What an agent was started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSettings {
    /// The node's name.
    pub node: Option<String>,
    /// The probe family.
    pub family: String,
    /// What is traced.
    pub scope: StatusScope,
    /// It asks sidecars for their configuration.
    pub explains: bool,
    /// The container runtime's socket.
    pub runtime: Option<String>,
}

/// What is traced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusScope {
    /// Only sockets of this cgroup; null: all of the node's.
    pub cgroup: Option<PathBuf>,
    /// Only these network namespaces; empty: all.
    pub netns: Vec<PathBuf>,
    /// Only pods that meet all of these conditions; empty: all pods, and processes in no pod.
    pub pods: Vec<String>,
}

/// A number of losses, by source and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCount {
    /// Where.
    pub source: LossSource,
    /// Why.
    pub reason: String,
    /// The number.
    pub count: u64,
}

/// A running agent as its readers see it. Clones are handles to one agent.
#[derive(Clone)]
pub struct Live {
    recent: Recent,
    status: Rc<RefCell<Status>>,
}

impl Live {
    /// An agent that starts now and keeps `keep` lines for its readers.
    pub fn new(settings: StatusSettings, keep: usize) -> Self {
        let StatusSettings { node, family, scope, explains, runtime } = settings;
        let status = Status {
            v: 1,
            version: RELEASE.to_owned(),
            node,
            pid: std::process::id(),
            since: now(),
            family,
            scope,
            sessions: Verdict::ALL.iter().map(|verdict| (verdict.name().to_owned(), 0)).collect(),
            flagged: 0,
            lost: Vec::new(),
            readers: 0,
            kept: 0,
            last: None,
            waiting: Some(0),
            explains: Some(explains),
            runtime,
        };
        Self { recent: Recent::new(keep), status: Rc::new(RefCell::new(status)) }
    }

    /// Counts a report and adds it to the stream.
    pub fn report(&self, report: Box<Report>) {
        let mut status = self.status.borrow_mut();
        *status.sessions.entry(report.verdict.name().to_owned()).or_default() += 1;
        status.flagged += u64::from(report.flagged);
        status.last = Some(report.time.clone());
        drop(status);
        self.recent.push(Message::Report(report));
    }

    /// Counts a loss and adds it to the stream.
    pub fn gap(&self, gap: Gap) {
        let (source, reason, count) = (gap.lost.source, &gap.lost.reason, gap.lost.count);
        let lost = &mut self.status.borrow_mut().lost;
        match lost.iter_mut().find(|loss| loss.source == source && loss.reason == *reason) {
            Some(loss) => loss.count += count,
            None => lost.push(LossCount { source, reason: reason.clone(), count }),
        }
        self.recent.push(Message::Gap(gap));
    }

    /// Notes how many requests wait for their answer.
    pub fn set_waiting(&self, requests: usize) {
        self.status.borrow_mut().waiting = Some(requests);
    }

    /// The recent lines.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The present status.
    pub fn status(&self) -> Status {
        let status = self.status.borrow().clone();
        Status { readers: self.recent.readers(), kept: self.recent.kept().0, ..status }
    }
}
