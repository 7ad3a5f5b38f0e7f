//! The flows that are in the middle of a head. Their number is bounded for each network namespace and in all, and the bytes
//! held for each by [`HEAD_MAX`](tracer_ebpf::HEAD_MAX), so one pod can neither fill the memory nor displace another's flows.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::section::Section;

/// The most flows of one network namespace; beyond it, its oldest one is forgotten.
const MAX_OF_NAMESPACE: usize = 2_048;
/// The most flows of all; beyond it, the oldest one of the namespace with the most flows is forgotten. A forgotten flow's
/// next bytes are masked completely.
const MAX: usize = 16_384;

/// A flow in the middle of a head.
pub(super) struct Flow {
    /// The offset at which the next piece must begin.
    pub(super) next: u32,
    /// The section in which the held bytes begin.
    pub(super) section: Section,
    /// An incomplete line.
    pub(super) held: Vec<u8>,
}

impl Flow {
    /// A flow without held bytes.
    pub(super) fn new(section: Section) -> Self {
        Self { next: 0, section, held: Vec::new() }
    }
}

#[derive(Default)]
pub(super) struct Flows {
    by_id: HashMap<u64, Entry>,
    /// Flow by network namespace and ticket: the oldest of each namespace first.
    by_age: BTreeMap<(u64, u64), u64>,
    /// How many flows each network namespace has.
    counts: HashMap<u64, usize>,
    next_ticket: u64,
    held_bytes: usize,
}

struct Entry {
    flow: Flow,
    netns: u64,
    ticket: u64,
}

impl Flows {
    /// Takes out a flow.
    pub(super) fn remove(&mut self, id: u64) -> Option<Flow> {
        let Entry { flow, netns, ticket } = self.by_id.remove(&id)?;
        self.by_age.remove(&(netns, ticket));
        if let Some(count) = self.counts.get_mut(&netns) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&netns);
            }
        }
        self.held_bytes -= flow.held.len();
        Some(flow)
    }

    /// Adds a flow that is not there.
    pub(super) fn insert(&mut self, id: u64, netns: u64, flow: Flow) {
        if self.counts.get(&netns).is_some_and(|count| *count >= MAX_OF_NAMESPACE) {
            self.forget_oldest(netns);
        } else if self.by_id.len() >= MAX {
            let largest = self.counts.iter().max_by_key(|(netns, count)| (**count, **netns));
            if let Some(largest) = largest.map(|(netns, _)| *netns) {
                self.forget_oldest(largest);
            }
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.held_bytes += flow.held.len();
        self.by_age.insert((netns, ticket), id);
        *self.counts.entry(netns).or_default() += 1;
        self.by_id.insert(id, Entry { flow, netns, ticket });
    }

    fn forget_oldest(&mut self, netns: u64) {
        let oldest = self.by_age.range((netns, 0)..).next().map(|(_, id)| *id);
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_cannot_displace_the_flows_of_another() {
        let mut flows = Flows::default();
        let flow = || Flow { held: vec![0; 100], ..Flow::new(Section::START) };
        flows.insert(1, 7, flow());
        for id in 2..100_000 {
            flows.insert(id, 8, flow());
        }
        assert_eq!((flows.len(), flows.held_bytes()), (1 + MAX_OF_NAMESPACE, 100 * (1 + MAX_OF_NAMESPACE)));
        for id in 100_000..200_000 {
            flows.insert(id, 10 + id % 100, flow());
        }
        assert_eq!((flows.len(), flows.by_age.len()), (MAX, MAX));
        assert!(flows.remove(1).is_some());
        assert_eq!(flows.counts.values().sum::<usize>(), flows.len());
    }
}
