//! How often something may happen: so many a second, so many at once.

use std::{cell::Cell, time::Instant};

/// A bucket of tokens.
pub(super) struct Rate {
    each_second: f64,
    at_once: f64,
    tokens: Cell<f64>,
    filled: Cell<Instant>,
}

impl Rate {
    pub(super) fn new(each_second: u32, at_once: u32) -> Self {
        let at_once = f64::from(at_once);
        Self {
            each_second: f64::from(each_second),
            at_once,
            tokens: Cell::new(at_once),
            filled: Cell::new(Instant::now()),
        }
    }

    /// Whether it may happen once more now.
    pub(super) fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled.replace(now)).as_secs_f64();
        let tokens = (self.tokens.get() + passed * self.each_second).min(self.at_once);
        let enough = tokens >= 1.0;
        self.tokens.set(if enough { tokens - 1.0 } else { tokens });
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
        let (rate, start) = (Rate::new(10, 20), Instant::now());
        let taken = |at| (0..1000).filter(|_| rate.take_at(at)).count();
        assert_eq!(taken(start), 20);
        assert_eq!(taken(start + Duration::from_millis(500)), 5);
        assert_eq!(taken(start + Duration::from_mins(1)), 20);
    }
}
