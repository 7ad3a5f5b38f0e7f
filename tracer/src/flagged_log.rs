//! The agent's log of flagged reports: one line of JSON each, but only a few a minute for each cause, because an app that
//! fails retries. Suppressed reports are counted in a line of their own; the metrics and the live stream have them all.

use std::{
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
const BURST: u32 = 3;
/// After this time a cause may have one more line.
const PERIOD: Duration = Duration::from_mins(1);
/// The most causes that are told apart. Beyond that, the least recently seen one is dropped.
const CAUSES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

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

/// The lines of a cause.
struct CauseLines {
    limit: TokenBucket,
    suppressed: u64,
}

/// `{"v":1,"time":…,"suppressed":12,"cause":{…}}`
#[derive(Serialize)]
struct SuppressedLine<'a> {
    v: u8,
    time: String,
    suppressed: u64,
    cause: &'a Cause,
}

/// The log.
pub struct FlaggedLog {
    causes: LruCache<Cause, CauseLines>,
}

impl Default for FlaggedLog {
    fn default() -> Self {
        Self { causes: LruCache::new(CAUSES) }
    }
}

impl FlaggedLog {
    /// The lines to write for this report, at this time.
    pub fn lines(&mut self, report: &Report, at: Instant) -> Vec<String> {
        let mut lines = self.due_suppressed(at);
        let cause = Cause::of(report);
        if !self.causes.contains(&cause) && self.causes.len() >= CAUSES.get() {
            let dropped = self.causes.pop_lru();
            lines.extend(dropped.and_then(|(cause, seen)| suppressed_line(&cause, seen.suppressed)));
        }
        let seen = self.causes.get_or_insert_mut(cause, || CauseLines {
            limit: TokenBucket::new(PERIOD, BURST, at),
            suppressed: 0,
        });
        if seen.limit.take(at) {
            lines.push(report.to_json());
        } else {
            seen.suppressed += 1;
        }
        lines
    }

    /// The lines on suppressed reports of the causes that may have a line again.
    fn due_suppressed(&mut self, at: Instant) -> Vec<String> {
        let due = self.causes.iter_mut().filter(|(_, seen)| seen.limit.has_token(at));
        due.filter_map(|(cause, seen)| suppressed_line(cause, std::mem::take(&mut seen.suppressed))).collect()
    }

    /// The lines on all suppressed reports that were not written yet, for the end of the agent.
    pub fn rest(&self) -> Vec<String> {
        self.causes.iter().filter_map(|(cause, seen)| suppressed_line(cause, seen.suppressed)).collect()
    }
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

fn suppressed_line(cause: &Cause, suppressed: u64) -> Option<String> {
    let line = SuppressedLine { v: 1, time: now(), suppressed, cause };
    (suppressed > 0).then(|| serde_json::to_string(&line).expect("it has only strings for keys"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording;

    fn report() -> Report {
        let mut first = None;
        let recording = include_bytes!("../../tests/traces/gotcha.jsonl");
        recording::replay(&recording[..], |report| {
            first.get_or_insert(report);
            Ok(())
        })
        .expect("a replay");
        first.expect("a report")
    }

    #[test]
    fn retries_of_an_app_are_suppressed_and_counted() {
        let (mut log, start, report) = (FlaggedLog::default(), Instant::now(), report());
        let mut lines: Vec<String> = (0..100).flat_map(|_| log.lines(&report, start)).collect();
        assert_eq!(lines, vec![report.to_json(); 3]);

        let mut other = report.clone();
        other.proxy.port += 1;
        assert_eq!(log.lines(&other, start), [other.to_json()], "each cause has its own limit");

        lines = log.lines(&report, start + PERIOD);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains(r#""suppressed":97,"cause":{"namespace":null,"workload":"raw-client","proxy":{"ip":"10.0.0.1","port":3128},"verdict":"handled_as_http","#),
            "{lines:?}"
        );
        assert_eq!(lines[1], report.to_json());
        assert!(log.lines(&report, start + PERIOD).is_empty());
        assert_eq!(log.rest().len(), 1);
        // Suppressed reports are counted in a line as soon as their cause may have one, whatever is logged then.
        lines = log.lines(&other, start + PERIOD * 2);
        assert!(lines[0].contains(r#""suppressed":1,"#) && lines[1] == other.to_json(), "{lines:?}");
        assert!(log.rest().is_empty());
    }

    #[test]
    fn causes_are_bounded_and_no_suppressed_report_is_uncounted() {
        let (mut log, start, mut report) = (FlaggedLog::default(), Instant::now(), report());
        let (mut logged, mut suppressed) = (0, 0);
        let mut count = |lines: &[String]| {
            for line in lines {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                match line["suppressed"].as_u64() {
                    Some(count) => suppressed += count,
                    None => logged += 1,
                }
            }
        };
        for n in 0..3000_u64 {
            report.source.comm = Some(format!("app-{}", n / 2).into());
            for _ in 0..5 {
                count(&log.lines(&report, start + Duration::from_millis(n)));
            }
            assert!(log.causes.len() <= CAUSES.get());
        }
        count(&log.rest());
        assert_eq!((logged, suppressed), (1500 * 3, 1500 * 7));
    }
}
