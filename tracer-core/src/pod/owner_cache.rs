//! The table of owners: who each known key belongs to, for a while longer than it is there, because reports come late.
//! It is fed facts and time, and asks for what it does not know once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Fact, Key, Owner, Pod};

/// How long it is before an owner that is no container is asked for again.
const MINUTE: u64 = 60_000_000_000;
/// How many keys may be asked for at a time. A node with more unknown processes than that has another problem.
const ASKED: usize = 4_096;

/// Owners by key.
#[derive(Debug)]
pub struct Names {
    /// How long an owner is remembered after it is gone, in ns.
    remember: u64,
    known: HashMap<Key, Known>,
    /// Asked for, not answered yet, and when.
    asked: HashMap<Key, u64>,
    /// To be asked for.
    wanted: Vec<Key>,
    /// Pods of which nothing is left, since this was last taken.
    gone: Vec<Arc<Pod>>,
}

#[derive(Debug)]
struct Known {
    owner: Owner,
    until: Option<u64>,
}

impl Names {
    /// Knows nobody yet, and remembers an owner for so long after it is gone, in ns.
    pub fn new(remember: u64) -> Self {
        Self { remember, known: HashMap::new(), asked: HashMap::new(), wanted: Vec::new(), gone: Vec::new() }
    }

    /// Whom this key belongs to, where that is known; else it will be asked for.
    pub fn owner(&mut self, key: Key, time: u64) -> Option<&Owner> {
        if !self.known.contains_key(&key) && !self.asked.contains_key(&key) && self.asked.len() < ASKED {
            self.asked.insert(key, time);
            self.wanted.push(key);
        }
        self.known.get(&key).map(|known| &known.owner)
    }

    /// What has been asked for since the previous call.
    pub fn take_wanted(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.wanted)
    }

    /// The pods that were forgotten since the previous call.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        std::mem::take(&mut self.gone)
    }

    /// Takes a fact; says which key it answers, if any.
    pub fn learn(&mut self, fact: Fact, time: u64) -> Option<Key> {
        match fact {
            Fact::Owner(key, owner) => {
                self.asked.remove(&key);
                let is_lasting = matches!((&owner, key), (Owner::Container(_), Key::Cgroup(_)));
                let until = (!is_lasting).then_some(time.saturating_add(MINUTE));
                self.known.insert(key, Known { owner, until });
                Some(key)
            }
            Fact::Gone(key) => {
                if let Some(known) = self.known.get_mut(&key) {
                    known.until.get_or_insert(time.saturating_add(self.remember));
                }
                None
            }
        }
    }

    /// Forgets what has been gone for long enough.
    pub fn pass(&mut self, time: u64) {
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
        // Another pod may have the name by now, as a StatefulSet's does, and then it has the series, too.
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
    fn what_is_not_known_is_asked_for_once() {
        let mut names = Names::new(MINUTE);
        let key = Key::Cgroup(7);
        assert_eq!(names.owner(key, 0), None);
        assert_eq!(names.owner(key, 1), None);
        assert_eq!(names.take_wanted(), [key]);
        assert_eq!(names.learn(Fact::Owner(key, Owner::Unknown), 2), Some(key));
        assert_eq!(names.owner(key, 3), Some(&Owner::Unknown));
        names.pass(2 + MINUTE - 1);
        assert!(names.owner(key, 2 + MINUTE).is_some() && names.take_wanted().is_empty());
        names.pass(2 + MINUTE);
        assert_eq!(names.owner(key, 2 + MINUTE), None, "a minute later it may be known");
        assert_eq!(names.take_wanted(), [key]);
        // Nobody answers: it is asked for again, but not before a minute has passed.
        names.pass(2 + 2 * MINUTE);
        assert_eq!(names.owner(key, 2 + 2 * MINUTE), None);
        assert_eq!(names.take_wanted(), [key]);
    }

    #[test]
    fn a_pod_is_remembered_for_a_minute_and_then_named_as_gone() {
        let mut names = Names::new(MINUTE);
        let cart = pod("cart-1", "1");
        for id in [7, 8] {
            names.learn(Fact::Owner(Key::Cgroup(id), app(&cart)), 0);
        }
        names.pass(3600 * SECOND);
        assert!(names.owner(Key::Cgroup(7), 0).is_some(), "it is there as long as the pod is");
        names.learn(Fact::Gone(Key::Cgroup(7)), 0);
        names.pass(MINUTE);
        assert!(names.owner(Key::Cgroup(7), 0).is_none() && names.take_gone().is_empty(), "8 is left");
        names.learn(Fact::Gone(Key::Cgroup(8)), MINUTE);
        names.learn(Fact::Gone(Key::Cgroup(8)), MINUTE + 5); // said twice, it is gone no later
        names.pass(2 * MINUTE);
        assert_eq!(names.take_gone(), [cart]);
        assert!(names.take_gone().is_empty());
    }

    #[test]
    fn a_successor_of_the_same_name_is_not_gone() {
        let mut names = Names::new(MINUTE);
        let (old, new) = (pod("db-0", "1"), pod("db-0", "2"));
        names.learn(Fact::Owner(Key::Cgroup(7), app(&old)), 0);
        names.learn(Fact::Gone(Key::Cgroup(7)), 0);
        names.learn(Fact::Owner(Key::Cgroup(8), app(&new)), 1);
        names.pass(MINUTE);
        assert!(names.take_gone().is_empty());
    }

    #[test]
    fn a_flood_of_unknown_keys_is_bounded() {
        let mut names = Names::new(MINUTE);
        for id in 2..100_000 {
            names.owner(Key::Cgroup(id), 0);
        }
        assert_eq!(names.take_wanted().len(), ASKED);
    }
}
