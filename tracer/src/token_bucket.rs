//! A rate limit: so many events at once, and one more after each period.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// A token bucket, kept as the time at which it is full again (the generic cell rate algorithm): exact, and without a task
/// that fills it.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    period: Duration,
    burst: Duration,
    full_at: Cell<Instant>,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains one each `period`. `now` is any time before its first use.
    pub fn new(period: Duration, burst: u32, now: Instant) -> Self {
        Self { period, burst: period * burst, full_at: Cell::new(now) }
    }

    /// Is there a token at this time?
    pub fn has_token(&self, now: Instant) -> bool {
        self.full_at_after_take(now).is_some()
    }

    /// Takes a token at this time; `false`: there is none.
    pub fn take(&self, now: Instant) -> bool {
        let full_at = self.full_at_after_take(now);
        if let Some(full_at) = full_at {
            self.full_at.set(full_at);
        }
        full_at.is_some()
    }

    fn full_at_after_take(&self, now: Instant) -> Option<Instant> {
        let full_at = self.full_at.get().max(now) + self.period;
        (full_at.duration_since(now) <= self.burst).then_some(full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_burst_at_once_and_then_one_token_each_period() {
        let start = Instant::now();
        let bucket = TokenBucket::new(Duration::from_millis(100), 20, start);
        let taken = |at| (0..1000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(start), 20);
        assert!(!bucket.has_token(start));
        assert_eq!(taken(start + Duration::from_millis(550)), 5);
        assert!(bucket.has_token(start + Duration::from_millis(600)));
        assert_eq!(taken(start + Duration::from_mins(1)), 20, "it holds no more than a burst");
    }
}
