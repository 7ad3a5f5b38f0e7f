//! Flows by a key and the network namespace they are in, oldest first.

use std::collections::BTreeMap;

/// Flows by key, network namespace and ticket. Adding, removing and finding the oldest take logarithmic time,
/// however many flows one pod has under one key.
pub(super) struct NamespaceIndex<K>(BTreeMap<(K, u64, u64), u64>);

impl<K> Default for NamespaceIndex<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Copy + Ord> NamespaceIndex<K> {
    pub(super) fn insert(&mut self, key: K, netns: u64, ticket: u64, flow: u64) {
        self.0.insert((key, netns, ticket), flow);
    }

    pub(super) fn remove(&mut self, key: K, netns: u64, ticket: u64) {
        self.0.remove(&(key, netns, ticket));
    }

    /// The flows of this key in this network namespace, oldest first. None are in an unknown one (0): legs join within one
    /// pod only.
    pub(super) fn find(&self, key: K, netns: u64) -> impl Iterator<Item = u64> {
        let known = (netns != 0).then(|| self.0.range((key, netns, 0)..=(key, netns, u64::MAX)));
        known.into_iter().flatten().map(|(_, flow)| *flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_flow_of_a_namespace_comes_first_and_an_unknown_namespace_matches_none() {
        let mut index = NamespaceIndex::default();
        for (key, netns, ticket, flow) in
            [(1, 7, 0, 70), (1, 7, 2, 72), (1, 7, 1, 71), (1, 8, 3, 83), (1, 0, 4, 4), (2, 7, 5, 75)]
        {
            index.insert(key, netns, ticket, flow);
        }
        let find = |index: &NamespaceIndex<u64>, netns| index.find(1, netns).collect::<Vec<_>>();
        assert_eq!(find(&index, 7), [70, 71, 72]);
        assert_eq!(find(&index, 8), [83]);
        assert_eq!(find(&index, 9), [0; 0]);
        assert_eq!(find(&index, 0), [0; 0]);
        index.remove(1, 7, 1);
        index.remove(1, 8, 1); // the ticket of another namespace's flow
        index.remove(1, 0, 4);
        assert_eq!((find(&index, 7), find(&index, 8)), (vec![70, 72], vec![83]));
    }
}
