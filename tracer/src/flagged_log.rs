//! The agent's log of flagged reports, or of all: one line of JSON each, but only a few a minute for each cause, because an app
//! that fails retries, for each pod, and in all. Suppressed reports are counted in lines of their own; the metrics and the
//! live stream have them all.

mod pod_lines;

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::token_bucket::TokenBucket;
use pod_lines::{LogPod, PodLines};
use tracer_core::report::Report;

/// The most lines of all pods at once, and the time after which there may be one more. A pod alone reaches neither.
const BURST: u32 = 500;
const PERIOD: Duration = Duration::from_millis(100);
/// The most pods that are told apart. Beyond that, the least recently seen one is dropped.
const PODS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How often suppressed reports are looked for.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The log.
pub struct FlaggedLog {
    pods: LruCache<LogPod, PodLines>,
    limit: TokenBucket,
    next_look: Instant,
}

impl Default for FlaggedLog {
    fn default() -> Self {
        let now = Instant::now();
        Self { pods: LruCache::new(PODS), limit: TokenBucket::new(PERIOD, BURST, now), next_look: now }
    }
}

impl FlaggedLog {
    /// The lines to write for this report, at this time.
    pub fn lines(&mut self, report: &Report, at: Instant) -> Vec<String> {
        let mut lines = self.due_suppressed(at);
        let pod = LogPod::of(report);
        if !self.pods.contains(&pod) && self.pods.len() >= PODS.get() {
            let dropped = self.pods.pop_lru();
            lines.extend(dropped.and_then(|(pod, seen)| seen.sum(&pod)));
        }
        let seen = self.pods.get_or_insert_mut(pod, || PodLines::new(at));
        if seen.admits(report, at) && self.limit.take(at) {
            lines.push(report.to_json());
        } else {
            seen.suppress(report);
        }
        lines
    }

    /// The lines on suppressed reports of the pods and causes that may have a line again. To be asked now and then, so that a
    /// count does not wait for the next report.
    pub fn due_suppressed(&mut self, at: Instant) -> Vec<String> {
        if at < self.next_look {
            return Vec::new();
        }
        self.next_look = at + LOOK_PERIOD;
        let Self { pods, limit, .. } = self;
        pods.iter_mut().flat_map(|(pod, seen)| seen.due(pod, at, limit)).collect()
    }

    /// The lines on all suppressed reports that were not written yet, for the end of the agent.
    pub fn rest(&self) -> Vec<String> {
        self.pods.iter().flat_map(|(pod, seen)| seen.rest(pod)).collect()
    }
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

    /// How many reports were logged, and how many were counted as suppressed.
    fn count(lines: &[String]) -> (u64, u64) {
        let (mut logged, mut suppressed) = (0, 0);
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            match line["suppressed"].as_u64() {
                Some(count) => suppressed += count,
                None => logged += 1,
            }
        }
        (logged, suppressed)
    }

    #[test]
    fn retries_of_an_app_are_suppressed_and_counted() {
        let (mut log, start, report) = (FlaggedLog::default(), Instant::now(), report());
        let mut lines: Vec<String> = (0..100).flat_map(|_| log.lines(&report, start)).collect();
        assert_eq!(lines, vec![report.to_json(); 3]);

        let mut other = report.clone();
        other.proxy.port += 1;
        assert_eq!(log.lines(&other, start), [other.to_json()], "each cause has its own limit");

        let minute = Duration::from_mins(1);
        lines = log.lines(&report, start + minute);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains(r#""suppressed":97,"cause":{"namespace":null,"workload":"raw-client","proxy":{"ip":"10.0.0.1","port":3128},"verdict":"handled_as_http","#),
            "{lines:?}"
        );
        assert_eq!(lines[1], report.to_json());
        assert!(log.lines(&report, start + minute).is_empty());
        assert_eq!(log.rest().len(), 1);
        // Suppressed reports are counted in a line as soon as their cause may have one, whatever is logged then.
        lines = log.lines(&other, start + minute * 2);
        assert!(lines[0].contains(r#""suppressed":1,"#) && lines[1] == other.to_json(), "{lines:?}");
        assert!(log.rest().is_empty());
    }

    #[test]
    fn suppressed_reports_are_counted_without_another_report() {
        let (mut log, start, report) = (FlaggedLog::default(), Instant::now(), report());
        for _ in 0..10 {
            log.lines(&report, start);
        }
        assert!(log.due_suppressed(start + LOOK_PERIOD).is_empty(), "the cause may not have a line yet");
        let lines = log.due_suppressed(start + Duration::from_mins(1));
        assert_eq!(count(&lines), (0, 7), "{lines:?}");
        assert!(log.rest().is_empty());
    }

    #[test]
    fn causes_of_a_pod_are_bounded_and_no_suppressed_report_is_uncounted() {
        let (mut log, start, mut report) = (FlaggedLog::default(), Instant::now(), report());
        let (mut logged, mut suppressed) = (0, 0);
        for n in 0..3_000_u64 {
            report.proxy.port = u16::try_from(n / 2).expect("a port");
            for _ in 0..5 {
                let (more, other) = count(&log.lines(&report, start + Duration::from_millis(n)));
                (logged, suppressed) = (logged + more, suppressed + other);
            }
        }
        let (more, rest) = count(&log.rest());
        assert_eq!((more, logged + suppressed + rest), (0, 3_000 * 5));
        assert!(logged + suppressed.min(1) < 30, "one pod writes few lines: {logged}");
        assert!(log.rest().len() < 100, "{}", log.rest().len());
    }

    /// A pod that fails towards thousands of addresses must neither fill the log nor keep another pod's failure out.
    #[test]
    fn flood_of_one_pod_keeps_no_line_of_another_out() {
        let (mut log, start, mut report) = (FlaggedLog::default(), Instant::now(), report());
        report.source.namespace = Some("hostile".to_owned());
        let mut lines = 0;
        for n in 0..2_403_u16 {
            report.source.pod = Some(format!("pod-{}", n % 3));
            report.proxy.port = n;
            lines += log.lines(&report, start + Duration::from_micros(u64::from(n) * 125)).len();
        }
        assert!(lines <= 100, "{lines}");
        report.source.namespace = Some("shop".to_owned());
        assert_eq!(log.lines(&report, start + Duration::from_millis(301)), [report.to_json()]);
    }
}
