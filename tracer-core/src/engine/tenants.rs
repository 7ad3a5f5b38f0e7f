//! Who holds how much of a table. When the table is full, the oldest entry of the tenant that holds most gives way, so what
//! one pod does costs no other pod its entries.

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::event::Event;

/// A container's cgroup, or, where that is unknown, a network namespace. A pod can make namespaces, but no cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Tenant {
    Cgroup(u64),
    Namespace(u64),
}

impl Tenant {
    /// The tenant to which a flow is charged.
    pub(super) fn of(event: &Event) -> Self {
        match event.task.as_ref().map_or(event.cgroup, |task| task.cgroup) {
            0 => Self::Namespace(event.netns),
            cgroup => Self::Cgroup(cgroup),
        }
    }
}

/// The entries of a table by tenant, and their weight.
#[derive(Default)]
pub(super) struct Tenants {
    holdings: HashMap<Tenant, Holding>,
    weight: usize,
}

#[derive(Default)]
struct Holding {
    weight: usize,
    /// Flows by a number that grows with each entry: oldest first.
    flows: BTreeMap<u64, u64>,
}

impl Tenants {
    /// Adds an entry. `order` grows with each.
    pub(super) fn add(&mut self, tenant: Tenant, order: u64, flow: u64, weight: usize) {
        let holding = self.holdings.entry(tenant).or_default();
        holding.flows.insert(order, flow);
        holding.weight += weight;
        self.weight += weight;
    }

    /// Removes an entry, and the weight that it has now.
    pub(super) fn remove(&mut self, tenant: Tenant, order: u64, weight: usize) {
        let Some(holding) = self.holdings.get_mut(&tenant) else { return };
        if holding.flows.remove(&order).is_none() {
            return;
        }
        holding.weight -= weight;
        self.weight -= weight;
        if holding.flows.is_empty() {
            self.holdings.remove(&tenant);
        }
    }

    /// Changes the weight of an entry.
    pub(super) fn reweigh(&mut self, tenant: Tenant, before: usize, now: usize) {
        let Some(holding) = self.holdings.get_mut(&tenant) else { return };
        holding.weight = holding.weight + now - before;
        self.weight = self.weight + now - before;
    }

    /// The weight of all entries.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// The oldest flow of the tenant that holds most.
    pub(super) fn first_to_go(&self) -> Option<u64> {
        let most = self.holdings.iter().max_by_key(|(tenant, holding)| (holding.weight, **tenant));
        most.and_then(|(_, holding)| holding.flows.values().next().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_entry_of_the_heaviest_tenant_goes_first() {
        let mut tenants = Tenants::default();
        let [quiet, loud] = [Tenant::Cgroup(1), Tenant::Namespace(1)];
        tenants.add(quiet, 0, 10, 5);
        for order in 1..=3 {
            tenants.add(loud, order, 10 + order, 2);
        }
        assert_eq!((tenants.first_to_go(), tenants.weight()), (Some(11), 11));
        tenants.remove(loud, 1, 2);
        assert_eq!((tenants.first_to_go(), tenants.weight()), (Some(10), 9));
        tenants.reweigh(loud, 2, 4);
        assert_eq!((tenants.first_to_go(), tenants.weight()), (Some(12), 11));
        for (tenant, order, weight) in [(quiet, 0, 5), (loud, 2, 4), (loud, 3, 2), (loud, 3, 2)] {
            tenants.remove(tenant, order, weight);
        }
        assert_eq!((tenants.first_to_go(), tenants.weight(), tenants.holdings.len()), (None, 0, 0));
    }
}
