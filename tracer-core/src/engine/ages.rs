//! What there is in the order of its age, where most of it is gone before it is old. It does not know what it names.

use std::collections::VecDeque;

/// So many names of what is gone are not worth looking for.
const FEW: usize = 1_024;

/// Names by their time, oldest first; some may be of what is gone.
pub(super) struct Ages<T>(VecDeque<(u64, T)>);

impl<T> Default for Ages<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Ages<T> {
    /// Adds the youngest, which is one of `living` that are there. One that lives long must not keep the places of all
    /// that came and went meanwhile.
    pub(super) fn push(&mut self, time: u64, name: T, living: usize, is_there: impl Fn(&T) -> bool) {
        if self.0.len() > 2 * living + FEW {
            self.0.retain(|(_, name)| is_there(name));
        }
        self.0.push_back((time, name));
    }

    /// The time of the one that [`Self::pop`] gives.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().map(|(time, _)| *time)
    }

    /// Takes the oldest name away.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.pop_front().map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_does_not_pile_up_behind_what_stays() {
        let mut ages = Ages::default();
        for n in 0..10_000_u64 {
            ages.push(n, n, 2, |&name| name == 0 || name == n);
            assert!(ages.0.len() <= 4 + FEW + 1, "{}", ages.0.len());
        }
        assert_eq!((ages.first(), ages.pop()), (Some(0), Some(0)));
        assert!(ages.first() > Some(FEW as u64), "{:?}", ages.first());
    }
}
