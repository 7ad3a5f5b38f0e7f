//! The time to the first byte of an answer, by verdict.

use std::cell::OnceCell;

use prometheus::{Histogram, HistogramVec};

use tracer_core::verdict::Verdict;

/// The histograms, one for each verdict that occurred.
pub(super) struct ReplyHistogram {
    all: HistogramVec,
    /// A cache: to find a histogram by its label takes as long as the rest of counting a report.
    known: [OnceCell<Histogram>; Verdict::ALL.len()],
}

impl ReplyHistogram {
    /// `all` has one label: the verdict.
    pub(super) fn new(all: HistogramVec) -> Self {
        Self { all, known: Default::default() }
    }

    /// Adds an answer that came after `after_us` µs.
    pub(super) fn observe(&self, verdict: Verdict, after_us: u64) {
        let histogram =
            self.known[verdict as usize].get_or_init(|| self.all.with_label_values(&[verdict.name()]));
        #[expect(clippy::cast_precision_loss, reason = "an f64 holds 2^53 µs, which is 285 years")]
        histogram.observe(after_us as f64 / 1e6);
    }
}
