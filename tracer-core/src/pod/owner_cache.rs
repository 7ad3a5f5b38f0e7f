//! A cache of owners. An entry outlives its processes for a while, since reports come late. An unknown owner is asked
//! for once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Fact, Owner, OwnerKey, Pod};

/// After this time, an owner that is not a container is asked for again, in ns.
const MINUTE: u64 = 60_000_000_000;
/// The most keys that are asked for at a time.
const MAX_ASKED: usize = 4_096;

/// Owners by key.
#[derive(Debug)]
pub struct OwnerCache {
    /// How long an owner is kept after its last process ended, in ns.
    ttl: u64,
    known: HashMap<OwnerKey, Known>,
    /// Keys without an answer yet, and when each was asked for.
    asked: HashMap<OwnerKey, u64>,
    /// Keys to ask for, since they were last taken.
    wanted: Vec<OwnerKey>,
    /// Pods that were forgotten, since they were last taken.
    gone: Vec<Arc<Pod>>,
}

#[derive(Debug)]
struct Known {
    owner: Owner,
    until: Option<u64>,
}

impl OwnerCache {
    /// An empty cache that keeps an owner for `ttl` ns after its last process ended.
    pub fn new(ttl: u64) -> Self {
        Self { ttl, known: HashMap::new(), asked: HashMap::new(), wanted: Vec::new(), gone: Vec::new() }
    }

    /// The owner of this key. If it is unknown, the key is asked for.
    pub fn owner(&mut self, key: OwnerKey, time: u64) -> Option<&Owner> {
        if !self.known.contains_key(&key) && !self.asked.contains_key(&key) && self.asked.len() < MAX_ASKED {
            self.asked.insert(key, time);
            self.wanted.push(key);
        }
        self.known.get(&key).map(|known| &known.owner)
    }

    /// The keys that were asked for since the previous call.
    pub fn take_wanted(&mut self) -> Vec<OwnerKey> {
        std::mem::take(&mut self.wanted)
    }

    /// The pods that were forgotten since the previous call.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        std::mem::take(&mut self.gone)
    }

    /// Takes a fact and returns the key whose owner it tells.
    pub fn learn(&mut self, fact: Fact, time: u64) -> Option<OwnerKey> {
        match fact {
            Fact::Owner(key, owner) => {
                self.asked.remove(&key);
                let is_lasting = matches!((&owner, key), (Owner::Container(_), OwnerKey::Cgroup(_)));
                let until = (!is_lasting).then_some(time.saturating_add(MINUTE));
                self.known.insert(key, Known { owner, until });
                Some(key)
            }
            Fact::Gone(key) => {
                if let Some(known) = self.known.get_mut(&key) {
                    known.until.get_or_insert(time.saturating_add(self.ttl));
                }
                None
            }
        }
    }

    /// Forgets owners whose time to live is over.
    pub fn expire(&mut self, time: u64) {
        self.asked.retain(|_, asked| asked.saturating_add(MINUTE) > time);
        let is_over = |known: &Known| known.until.is_some_and(|until| until <= time);
        if !self.known.values().any(is_over) {
            return;
        }
        let pod = |known: &Known| match &known.owner {
            Owner::Container(container) => Some(Arc::clone(&container.pod)),
            Owner::Host | Owner::Unknown => None,
        };
        let over: Vec<Arc<Pod>> =
            self.known.values().filter(|known| is_over(known)).filter_map(pod).collect();
        self.known.retain(|_, known| !is_over(known));
        if over.is_empty() {
            return;
        }
        // A pod's name may have passed to a successor, as in a StatefulSet. The metric series go with the name.
        let left: Vec<Arc<Pod>> = self.known.values().filter_map(pod).collect();
        let mut named: HashSet<(&str, &str)> = left.iter().map(|pod| name_of(pod)).collect();
        self.gone.extend(over.iter().filter(|pod| named.insert(name_of(pod))).cloned());
    }
}

fn name_of(pod: &Pod) -> (&str, &str) {
    (&pod.namespace, &pod.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pod::Container, selector::Labels};

    const SECOND: u64 = 1_000_000_000;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        Arc::new(Pod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: Labels::new(),
            workload: name.to_owned(),
            injected: true,
            host_network: false,
            ignored: false,
        })
    }

    fn app(pod: &Arc<Pod>) -> Owner {
        Owner::Container(Container { name: "app".to_owned(), pod: Arc::clone(pod) })
    }

    #[test]
    fn unknown_key_is_asked_for_once_a_minute() {
        let mut cache = OwnerCache::new(MINUTE);
        let key = OwnerKey::Cgroup(7);
        assert_eq!(cache.owner(key, 0), None);
        assert_eq!(cache.owner(key, 1), None);
        assert_eq!(cache.take_wanted(), [key]);
        assert_eq!(cache.learn(Fact::Owner(key, Owner::Unknown), 2), Some(key));
        assert_eq!(cache.owner(key, 3), Some(&Owner::Unknown));
        cache.expire(2 + MINUTE - 1);
        assert!(cache.owner(key, 2 + MINUTE).is_some() && cache.take_wanted().is_empty());
        cache.expire(2 + MINUTE);
        assert_eq!(cache.owner(key, 2 + MINUTE), None, "asked for again after a minute");
        assert_eq!(cache.take_wanted(), [key]);
        // Without an answer it is asked for again after a minute.
        cache.expire(2 + 2 * MINUTE);
        assert_eq!(cache.owner(key, 2 + 2 * MINUTE), None);
        assert_eq!(cache.take_wanted(), [key]);
    }

    #[test]
    fn pod_is_kept_for_its_ttl_and_then_listed_as_gone() {
        let mut cache = OwnerCache::new(MINUTE);
        let cart = pod("cart-1", "1");
        for id in [7, 8] {
            cache.learn(Fact::Owner(OwnerKey::Cgroup(id), app(&cart)), 0);
        }
        cache.expire(3600 * SECOND);
        assert!(cache.owner(OwnerKey::Cgroup(7), 0).is_some(), "kept while the pod exists");
        cache.learn(Fact::Gone(OwnerKey::Cgroup(7)), 0);
        cache.expire(MINUTE);
        assert!(
            cache.owner(OwnerKey::Cgroup(7), 0).is_none() && cache.take_gone().is_empty(),
            "cgroup 8 is left"
        );
        cache.learn(Fact::Gone(OwnerKey::Cgroup(8)), MINUTE);
        cache.learn(Fact::Gone(OwnerKey::Cgroup(8)), MINUTE + 5); // the second time changes nothing
        cache.expire(2 * MINUTE);
        assert_eq!(cache.take_gone(), [cart]);
        assert!(cache.take_gone().is_empty());
    }

    #[test]
    fn pod_with_a_successor_of_its_name_is_not_listed_as_gone() {
        let mut cache = OwnerCache::new(MINUTE);
        let (old, new) = (pod("db-0", "1"), pod("db-0", "2"));
        cache.learn(Fact::Owner(OwnerKey::Cgroup(7), app(&old)), 0);
        cache.learn(Fact::Gone(OwnerKey::Cgroup(7)), 0);
        cache.learn(Fact::Owner(OwnerKey::Cgroup(8), app(&new)), 1);
        cache.expire(MINUTE);
        assert!(cache.take_gone().is_empty());
    }

    #[test]
    fn unknown_keys_are_bounded() {
        let mut cache = OwnerCache::new(MINUTE);
        for id in 2..100_000 {
            cache.owner(OwnerKey::Cgroup(id), 0);
        }
        assert_eq!(cache.take_wanted().len(), MAX_ASKED);
    }
}
