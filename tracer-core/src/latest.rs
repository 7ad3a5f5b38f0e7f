//! What was last seen of something, by a key, for as long as that is of interest.

use std::{collections::VecDeque, hash::Hash};

use foldhash::HashMap;

/// The latest value of each key, and when it was seen.
#[derive(Debug)]
pub struct Latest<K, V> {
    values: HashMap<K, (u64, V)>,
    /// In the order in which they were seen; may name some that others have followed.
    order: VecDeque<(u64, K)>,
}

impl<K, V> Default for Latest<K, V> {
    fn default() -> Self {
        Self { values: HashMap::default(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Latest<K, V> {
    /// This was seen.
    pub fn insert(&mut self, time: u64, key: K, value: V) {
        self.values.insert(key, (time, value));
        self.order.push_back((time, key));
    }

    /// What was last seen.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    /// Takes it away.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.values.remove(key).map(|(_, value)| value)
    }

    /// Forgets what was last seen before `time`, and the oldest until no more than `most` are left.
    pub fn expire(&mut self, time: u64, most: usize) {
        while let Some((seen, key)) = self.order.front() {
            if *seen >= time && self.order.len() <= most {
                break;
            }
            if self.values.get(key).is_some_and(|(latest, _)| latest == seen) {
                self.values.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_again_stays() {
        let mut latest = Latest::default();
        for (time, key) in [(10, 'a'), (20, 'b'), (30, 'a'), (40, 'c')] {
            latest.insert(time, key, time);
        }
        latest.expire(30, 100);
        assert_eq!(['a', 'b', 'c'].map(|key| latest.get(&key).copied()), [Some(30), None, Some(40)]);
        latest.expire(30, 1);
        assert_eq!(['a', 'c'].map(|key| latest.remove(&key)), [None, Some(40)]);
        assert_eq!(latest.get(&'c'), None);
    }
}
