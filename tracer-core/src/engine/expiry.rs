//! Collections whose entries leave by age: a map with a time to live, a queue of deadlines, a queue by age.
//!
//! Times are `CLOCK_MONOTONIC` in ns and come from the caller.

use std::{collections::VecDeque, hash::Hash};

use foldhash::HashMap;

/// A map that keeps the latest value of each key and drops values by their time.
#[derive(Debug)]
pub(super) struct TtlMap<K, V> {
    values: HashMap<K, (u64, V)>,
    /// Insertions, oldest first. A key stands here once for each insertion.
    insertions: VecDeque<(u64, K)>,
}

impl<K, V> Default for TtlMap<K, V> {
    fn default() -> Self {
        Self { values: HashMap::default(), insertions: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> TtlMap<K, V> {
    /// Sets the value of `key` and restarts its time to live.
    pub(super) fn insert(&mut self, time: u64, key: K, value: V) {
        self.values.insert(key, (time, value));
        self.insertions.push_back((time, key));
    }

    /// The latest value of `key`.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    /// Removes `key` and returns its value.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.values.remove(key).map(|(_, value)| value)
    }

    /// Drops values last set before `time`, then the oldest insertions beyond `capacity`.
    pub(super) fn expire(&mut self, time: u64, capacity: usize) {
        while let Some((inserted, key)) = self.insertions.front() {
            if *inserted >= time && self.insertions.len() <= capacity {
                break;
            }
            if self.values.get(key).is_some_and(|(latest, _)| latest == inserted) {
                self.values.remove(key);
            }
            self.insertions.pop_front();
        }
    }
}

/// A first-in, first-out queue of flows, of which any may leave early by its ticket.
#[derive(Default)]
pub(super) struct DeadlineQueue {
    /// Time and flow. `None`: left early.
    entries: VecDeque<Option<(u64, u64)>>,
    /// The ticket of the first entry.
    first_ticket: u64,
}

impl DeadlineQueue {
    /// Appends `flow` and returns its ticket. An entry never overtakes an earlier one, even if its time is smaller.
    pub(super) fn push(&mut self, time: u64, flow: u64) -> u64 {
        self.entries.push_back(Some((time, flow)));
        self.first_ticket + self.entries.len() as u64 - 1
    }

    /// Removes the entry with this ticket. A ticket that has left already is ignored.
    pub(super) fn cancel(&mut self, ticket: u64) {
        let index = ticket.checked_sub(self.first_ticket).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            *entry = None;
        }
    }

    /// Removes and returns the first ticket and its flow if its time is at most `time`.
    pub(super) fn pop(&mut self, time: u64) -> Option<(u64, u64)> {
        while let Some(entry) = self.entries.front() {
            if entry.is_some_and(|(pushed, _)| pushed > time) {
                return None;
            }
            let ticket = self.first_ticket;
            self.first_ticket += 1;
            if let Some(Some((_, flow))) = self.entries.pop_front() {
                return Some((ticket, flow));
            }
        }
        None
    }
}

/// Up to this many stale names cost too little to be looked for.
const STALE_ALLOWANCE: usize = 1_024;

/// Insertion-ordered queue for entries that are mostly removed elsewhere before they expire.
///
/// It holds names of entries; a removed entry's name stays until it reaches the front or the queue is compacted.
pub(super) struct AgeQueue<T>(VecDeque<(u64, T)>);

impl<T> Default for AgeQueue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> AgeQueue<T> {
    /// Appends a name. `live` is how many entries exist; when stale names outnumber them, the queue is compacted with
    /// `exists`, so one long-lived entry at the front cannot hold the memory of all that came after it.
    pub(super) fn push(&mut self, time: u64, name: T, live: usize, exists: impl Fn(&T) -> bool) {
        if self.0.len() > 2 * live + STALE_ALLOWANCE {
            self.0.retain(|(_, name)| exists(name));
        }
        self.0.push_back((time, name));
    }

    /// The time of the oldest name.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.front().map(|(time, _)| *time)
    }

    /// Removes and returns the oldest name, which may be stale.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.pop_front().map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_map_keeps_a_value_that_was_set_again() {
        let mut map = TtlMap::default();
        for (time, key) in [(10, 'a'), (20, 'b'), (30, 'a'), (40, 'c')] {
            map.insert(time, key, time);
        }
        map.expire(30, 100);
        assert_eq!(['a', 'b', 'c'].map(|key| map.get(&key).copied()), [Some(30), None, Some(40)]);
        map.expire(30, 1);
        assert_eq!(['a', 'c'].map(|key| map.remove(&key)), [None, Some(40)]);
        assert_eq!(map.get(&'c'), None);
    }

    #[test]
    fn deadline_queue_returns_the_oldest_entry_that_was_not_canceled() {
        let mut queue = DeadlineQueue::default();
        let tickets: Vec<u64> = (1..=4).map(|n| queue.push(n * 10, n)).collect();
        queue.cancel(tickets[1]);
        assert_eq!([queue.pop(30), queue.pop(30), queue.pop(30)], [Some((0, 1)), Some((2, 3)), None]);
        queue.cancel(tickets[0]); // has left already
        assert_eq!([queue.pop(40), queue.pop(40)], [Some((3, 4)), None]);
        assert_eq!(queue.push(50, 5), 4);
        queue.cancel(4);
        assert_eq!(queue.pop(60), None);
    }

    #[test]
    fn age_queue_drops_stale_names_behind_a_long_lived_entry() {
        let mut queue = AgeQueue::default();
        for n in 0..10_000_u64 {
            queue.push(n, n, 2, |&name| name == 0 || name == n);
            assert!(queue.0.len() <= 4 + STALE_ALLOWANCE + 1, "{}", queue.0.len());
        }
        assert_eq!((queue.oldest(), queue.pop()), (Some(0), Some(0)));
        assert!(queue.oldest() > Some(STALE_ALLOWANCE as u64), "{:?}", queue.oldest());
    }
}
