//! The lines of one pod in the log of flagged reports.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;
use serde::Serialize;

use crate::{pipeline::now, token_bucket::TokenBucket};
use tracer_core::{
    report::{Endpoint, Report},
    verdict::{Reason, Verdict},
};

/// The most lines of a cause at once.
const CAUSE_BURST: u32 = 3;
/// After this time a cause may have one more line.
const CAUSE_PERIOD: Duration = Duration::from_mins(1);
/// The most lines of a pod at once.
const POD_BURST: u32 = 20;
/// After this time a pod may have one more line.
const POD_PERIOD: Duration = Duration::from_secs(5);
/// The most causes of a pod that are told apart.
const CAUSES: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// The pod of a report; its address, if its name is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub(super) enum LogPod {
    Named { namespace: String, pod: String },
    Address { ip: IpAddr },
}

impl LogPod {
    pub(super) fn of(report: &Report) -> Self {
        let source = &report.source;
        match (&source.namespace, &source.pod) {
            (Some(namespace), Some(pod)) => Self::Named { namespace: namespace.clone(), pod: pod.clone() },
            _ => Self::Address { ip: source.ip },
        }
    }
}

/// What the reports of one cause have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
struct Cause {
    namespace: Option<String>,
    /// The workload; if unknown the pod, if that is unknown the program.
    workload: Option<String>,
    proxy: Endpoint,
    verdict: Verdict,
    reason: Option<Reason>,
}

impl Cause {
    fn of(report: &Report) -> Self {
        let source = &report.source;
        let name = source.workload.as_deref().or(source.pod.as_deref()).or(source.comm.as_deref());
        Self {
            namespace: source.namespace.clone(),
            workload: name.map(str::to_owned),
            proxy: report.proxy,
            verdict: report.verdict,
            reason: report.reason,
        }
    }
}

/// `{"v":1,"time":…,"suppressed":12,"cause":{…}}`, or with `"pod"` for the causes of a pod that are not told apart.
#[derive(Serialize)]
struct SuppressedLine<'a> {
    v: u8,
    time: String,
    suppressed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a LogPod>,
}

/// The lines of a cause.
struct CauseLines {
    limit: TokenBucket,
    suppressed: u64,
}

/// The lines of a pod.
pub(super) struct PodLines {
    limit: TokenBucket,
    causes: LruCache<Cause, CauseLines>,
    /// The suppressed reports of causes that are not told apart any more.
    suppressed: u64,
}

impl PodLines {
    pub(super) fn new(at: Instant) -> Self {
        let limit = TokenBucket::new(POD_PERIOD, POD_BURST, at);
        Self { limit, causes: LruCache::new(CAUSES), suppressed: 0 }
    }

    /// Whether this report may have a line. If so, it is counted as written.
    pub(super) fn admits(&mut self, report: &Report, at: Instant) -> bool {
        let cause = Cause::of(report);
        if !self.causes.contains(&cause) && self.causes.len() >= CAUSES.get() {
            let dropped = self.causes.pop_lru();
            self.suppressed += dropped.map_or(0, |(_, seen)| seen.suppressed);
        }
        let of_cause = self.causes.get_or_insert_mut(cause, || CauseLines {
            limit: TokenBucket::new(CAUSE_PERIOD, CAUSE_BURST, at),
            suppressed: 0,
        });
        of_cause.limit.has_token(at) && self.limit.take(at) && of_cause.limit.take(at)
    }

    /// Counts a report that is not written.
    pub(super) fn suppress(&mut self, report: &Report) {
        match self.causes.get_mut(&Cause::of(report)) {
            Some(of_cause) => of_cause.suppressed += 1,
            None => self.suppressed += 1,
        }
    }

    /// The lines on suppressed reports that may be written now, within the limit of all pods.
    pub(super) fn due(&mut self, pod: &LogPod, at: Instant, all: &TokenBucket) -> Vec<String> {
        let Self { limit, causes, suppressed } = self;
        let mut lines = Vec::new();
        let may_write = || limit.has_token(at) && all.take(at) && limit.take(at);
        for (cause, seen) in causes.iter_mut() {
            if seen.suppressed > 0 && seen.limit.has_token(at) && may_write() {
                lines.extend(line(std::mem::take(&mut seen.suppressed), Some(cause), None));
            }
        }
        if *suppressed > 0 && may_write() {
            lines.extend(line(std::mem::take(suppressed), None, Some(pod)));
        }
        lines
    }

    /// The lines on all suppressed reports.
    pub(super) fn rest(&self, pod: &LogPod) -> Vec<String> {
        let of_causes =
            self.causes.iter().filter_map(|(cause, seen)| line(seen.suppressed, Some(cause), None));
        of_causes.chain(line(self.suppressed, None, Some(pod))).collect()
    }

    /// One line on all suppressed reports.
    pub(super) fn sum(&self, pod: &LogPod) -> Option<String> {
        let of_causes: u64 = self.causes.iter().map(|(_, seen)| seen.suppressed).sum();
        line(of_causes + self.suppressed, None, Some(pod))
    }
}

fn line(suppressed: u64, cause: Option<&Cause>, pod: Option<&LogPod>) -> Option<String> {
    let line = SuppressedLine { v: 1, time: now(), suppressed, cause, pod };
    (suppressed > 0).then(|| serde_json::to_string(&line).expect("it has only strings for keys"))
}
