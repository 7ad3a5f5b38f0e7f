//! The summary at the end of a command that prints reports.

use std::{collections::BTreeMap, time::Instant};

use tracer_core::{
    report::{LossSource, Message, ascii_marks},
    verdict::Verdict,
};

/// Counts of what was printed.
pub(super) struct Summary {
    /// When it was begun to wait for sessions; `None`: only past ones are printed.
    begun: Option<Instant>,
    verdicts: BTreeMap<Verdict, u64>,
    pub(super) flagged: u64,
    lost: [u64; 2],
}

impl Summary {
    /// Counts from now on; `follows`: sessions are waited for.
    pub(super) fn new(follows: bool) -> Self {
        Self { begun: follows.then(Instant::now), verdicts: BTreeMap::new(), flagged: 0, lost: [0; 2] }
    }

    /// All sessions.
    pub(super) fn sessions(&self) -> u64 {
        self.verdicts.values().sum()
    }

    /// Counts a message.
    pub(super) fn count(&mut self, message: &Message) {
        match message {
            Message::Report(report) => {
                *self.verdicts.entry(report.verdict).or_default() += 1;
                self.flagged += u64::from(report.flagged);
            }
            Message::Gap(gap) => {
                let [records, reports] = &mut self.lost;
                match gap.lost.source {
                    LossSource::Kernel | LossSource::Userspace => *records += gap.lost.count,
                    LossSource::Reader => *reports += gap.lost.count,
                }
            }
        }
    }

    /// `3 sessions in 10 s, 1 flagged: 1 ✗ handled_as_http, 2 tunneled; 12 records lost`
    pub(super) fn text(&self, marks: bool) -> String {
        use std::fmt::Write as _;
        let all = self.sessions();
        let mut text = format!("{all} {}", if all == 1 { "session" } else { "sessions" });
        if let Some(begun) = self.begun {
            let _ = write!(text, " in {} s", begun.elapsed().as_secs());
        }
        let _ = write!(text, ", {} flagged", self.flagged);
        for (nth, (verdict, count)) in self.verdicts.iter().enumerate() {
            let (before, mark) = (if nth == 0 { ": " } else { ", " }, verdict.severity().mark());
            let mark = if mark == ' ' { String::new() } else { format!("{mark} ") };
            let _ = write!(text, "{before}{count} {mark}{}", verdict.name());
        }
        for (lost, what) in
            self.lost.into_iter().zip(["records lost", "reports lost, as they were not read in time"])
        {
            if lost > 0 {
                let _ = write!(text, "; {lost} {what}");
            }
        }
        if marks { text } else { ascii_marks(&text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_core::report::Gap;

    #[test]
    fn summary_is_one_line_with_the_losses() {
        let mut summary = Summary::new(false);
        assert_eq!(summary.text(true), "0 sessions, 0 flagged");
        summary.verdicts =
            [(Verdict::Tunneled, 2), (Verdict::HandledAsHttp, 1), (Verdict::Unanswered, 1)].into();
        summary.flagged = 1;
        for source in [LossSource::Kernel, LossSource::Reader] {
            summary.count(&Message::Gap(Gap::new(String::new(), source, "x", 7)));
        }
        let text = "4 sessions, 1 flagged: 1 ✗ handled_as_http, 2 tunneled, 1 ! unanswered; 7 records lost; 7 reports lost, as \
                    they were not read in time";
        assert_eq!(summary.text(true), text);
        assert!(summary.text(false).is_ascii());
        assert!(Summary::new(true).text(true).starts_with("0 sessions in 0 s, "));
    }
}
