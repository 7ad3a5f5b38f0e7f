//! The agent's log of flagged reports: each a line of JSON, but of one cause only a few a minute, because an app that
//! fails retries. What was left out is counted and told in a line of its own; it is in the metrics and the live stream.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::pipeline::now;
use tracer_core::{
    report::{Endpoint, Report},
    verdict::{Reason, Verdict},
};

/// So many of one cause are logged at once.
const AT_ONCE: u32 = 3;
/// And one more each time this has passed.
const EACH: Duration = Duration::from_mins(1);
/// So many causes are told apart at once; for one more, the one that was seen longest ago is forgotten.
const CAUSES: usize = 1024;

/// What reports have in common that have one cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
struct Cause {
    namespace: Option<String>,
    /// The workload; without one the pod, or the program.
    workload: Option<String>,
    proxy: Endpoint,
    verdict: Verdict,
    reason: Option<Reason>,
}

struct Seen {
    tokens: u32,
    filled: Instant,
    latest: Instant,
    suppressed: u64,
}

/// `{"v":1,"time":…,"suppressed":12,"cause":{…}}`
#[derive(Serialize)]
struct LeftOut<'a> {
    v: u8,
    time: String,
    suppressed: u64,
    cause: &'a Cause,
}

/// The log.
#[derive(Default)]
pub struct FlaggedLog {
    causes: HashMap<Cause, Seen>,
}

impl FlaggedLog {
    /// The lines to write for this report, at this time.
    pub fn lines(&mut self, report: &Report, at: Instant) -> Vec<String> {
        let mut lines = self.told(at);
        let cause = Cause::of(report);
        if !self.causes.contains_key(&cause) && self.causes.len() >= CAUSES {
            lines.extend(self.forget_oldest());
        }
        let seen = self.causes.entry(cause).or_insert(Seen {
            tokens: AT_ONCE,
            filled: at,
            latest: at,
            suppressed: 0,
        });
        seen.latest = at;
        seen.fill(at);
        match seen.tokens.checked_sub(1) {
            Some(left) => {
                seen.tokens = left;
                lines.push(report.to_json());
            }
            None => seen.suppressed += 1,
        }
        lines
    }

    /// The lines on what was left out and is to be told by now.
    fn told(&mut self, at: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (cause, seen) in &mut self.causes {
            seen.fill(at);
            if seen.suppressed > 0 && seen.tokens > 0 {
                lines.push(suppressed(cause, seen.suppressed));
                seen.suppressed = 0;
            }
        }
        lines
    }

    /// Lines about suppressed reports of all causes, for the end of the agent.
    pub fn rest(&self) -> Vec<String> {
        let left = self.causes.iter().filter(|(_, seen)| seen.suppressed > 0);
        left.map(|(cause, seen)| suppressed(cause, seen.suppressed)).collect()
    }

    fn forget_oldest(&mut self) -> Option<String> {
        let oldest = self.causes.iter().min_by_key(|(_, seen)| seen.latest)?.0.clone();
        let seen = self.causes.remove(&oldest)?;
        (seen.suppressed > 0).then(|| suppressed(&oldest, seen.suppressed))
    }
}

impl Cause {
    fn of(report: &Report) -> Self {
        let source = &report.source;
        Self {
            namespace: source.namespace.clone(),
            workload: source
                .workload
                .as_deref()
                .or(source.pod.as_deref())
                .or(source.comm.as_deref())
                .map(str::to_owned),
            proxy: report.proxy,
            verdict: report.verdict,
            reason: report.reason,
        }
    }
}

impl Seen {
    fn fill(&mut self, at: Instant) {
        while self.tokens < AT_ONCE && at.saturating_duration_since(self.filled) >= EACH {
            self.tokens += 1;
            self.filled += EACH;
        }
        if self.tokens == AT_ONCE {
            self.filled = at;
        }
    }
}

fn suppressed(cause: &Cause, suppressed: u64) -> String {
    let line = LeftOut { v: 1, time: now(), suppressed, cause };
    serde_json::to_string(&line).expect("it has only strings for keys")
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
    fn an_app_that_retries_does_not_fill_the_log() {
        let (mut log, start, report) = (FlaggedLog::default(), Instant::now(), report());
        let mut lines: Vec<String> = (0..100).flat_map(|_| log.lines(&report, start)).collect();
        assert_eq!(lines, vec![report.to_json(); 3]);

        let mut other = report.clone();
        other.proxy.port += 1;
        assert_eq!(log.lines(&other, start), [other.to_json()], "another cause has a count of its own");

        lines = log.lines(&report, start + EACH);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains(r#""suppressed":97,"cause":{"namespace":null,"workload":"raw-client","proxy":{"ip":"10.0.0.1","port":3128},"verdict":"handled_as_http","#),
            "{lines:?}"
        );
        assert_eq!(lines[1], report.to_json());
        assert!(log.lines(&report, start + EACH).is_empty());
        assert_eq!(log.rest().len(), 1);
        // What was left out is told when its time has come, whatever is logged then.
        lines = log.lines(&other, start + EACH * 2);
        assert!(lines[0].contains(r#""suppressed":1,"#) && lines[1] == other.to_json(), "{lines:?}");
        assert!(log.rest().is_empty());
    }

    #[test]
    fn it_is_bounded_and_loses_no_count() {
        let (mut log, start, mut report) = (FlaggedLog::default(), Instant::now(), report());
        let (mut logged, mut left_out) = (0, 0);
        let mut count = |lines: &[String]| {
            for line in lines {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                match line["suppressed"].as_u64() {
                    Some(count) => left_out += count,
                    None => logged += 1,
                }
            }
        };
        for n in 0..3000_u64 {
            report.source.comm = Some(format!("app-{}", n / 2).into());
            for _ in 0..5 {
                count(&log.lines(&report, start + Duration::from_millis(n)));
            }
            assert!(log.causes.len() <= CAUSES);
        }
        count(&log.rest());
        assert_eq!((logged, left_out), (1500 * 3, 1500 * 7));
    }
}
