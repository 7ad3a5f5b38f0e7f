//! Whose records the kernel did not write, because the processes of a cgroup make too many.

use std::collections::{BTreeMap, HashMap};

use tracer_core::pod::{Container, Owner, OwnerKey};

/// The most pods that are counted by name.
pub const PODS: usize = 256;

/// How long the owner of a cgroup is asked for, in ns.
const PATIENCE: u64 = 10_000_000_000;

/// A pod, or what stands for it where none is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Maker {
    /// A pod, by its namespace and name.
    Pod(String, String),
    /// A process of the node itself.
    Host,
    /// The runtime does not know it, or there is none to ask.
    Unknown,
    /// Pods beyond the first [`PODS`].
    Other,
}

/// The counts of records that were not written.
#[derive(Debug, Default)]
pub struct Throttled {
    /// The latest count of each cgroup.
    seen: HashMap<u64, u64>,
    /// Cgroups whose owner is not known yet: since when, and how many records.
    waiting: BTreeMap<u64, (u64, u64)>,
    by_maker: BTreeMap<Maker, u64>,
}

impl Throttled {
    /// Takes the count of each cgroup since the start. `owner` is asked whose it is.
    pub fn note(
        &mut self,
        counts: impl IntoIterator<Item = (u64, u64)>,
        now: u64,
        mut owner: impl FnMut(OwnerKey) -> Option<Owner>,
    ) {
        let before = std::mem::take(&mut self.seen);
        for (cgroup, count) in counts {
            // The kernel forgets cgroups that have written nothing for long, and counts from 0 again.
            let known = before.get(&cgroup).copied().filter(|known| *known <= count).unwrap_or(0);
            self.seen.insert(cgroup, count);
            if count > known {
                self.waiting.entry(cgroup).or_insert((now, 0)).1 += count - known;
            }
        }
        for (cgroup, (since, count)) in std::mem::take(&mut self.waiting) {
            let maker = match owner(OwnerKey::Cgroup(cgroup)) {
                Some(Owner::Container(Container { pod, .. })) => {
                    Maker::Pod(pod.namespace.clone(), pod.name.clone())
                }
                Some(Owner::Host) => Maker::Host,
                None if now < since.saturating_add(PATIENCE) => {
                    self.waiting.insert(cgroup, (since, count));
                    continue;
                }
                Some(Owner::Unknown) | None => Maker::Unknown,
            };
            let is_room = self.by_maker.len() < PODS || self.by_maker.contains_key(&maker);
            *self.by_maker.entry(if is_room { maker } else { Maker::Other }).or_default() += count;
        }
    }

    /// The records that were not written, by who made them.
    pub fn by_maker(&self) -> impl Iterator<Item = (&Maker, u64)> {
        self.by_maker.iter().map(|(maker, count)| (maker, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn records_are_counted_for_the_owner_of_their_cgroup_once_it_is_known() {
        let mut throttled = Throttled::default();
        let known = |key: OwnerKey| (key == OwnerKey::Cgroup(7)).then_some(Owner::Host);
        throttled.note([(7, 10), (8, 3)], 0, known);
        assert_eq!(throttled.by_maker().collect::<Vec<_>>(), [(&Maker::Host, 10)]);
        // The same counts again, and one that began anew.
        throttled.note([(7, 10), (8, 3)], SECOND, known);
        throttled.note([(7, 4), (8, 5)], 2 * SECOND, known);
        assert_eq!(throttled.by_maker().collect::<Vec<_>>(), [(&Maker::Host, 14)]);
        // Nothing is known of the other one.
        throttled.note([(7, 4), (8, 5)], 10 * SECOND, known);
        let counted: Vec<_> = throttled.by_maker().collect();
        assert_eq!(counted, [(&Maker::Host, 14), (&Maker::Unknown, 5)]);
    }
}
