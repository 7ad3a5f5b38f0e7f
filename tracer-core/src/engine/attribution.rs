//! Attributes reports to their owners. A report whose owner is not known yet waits for it, for a bounded time, so names
//! are as much a function of the inputs as verdicts are.

use std::{collections::VecDeque, sync::Arc};

use foldhash::HashMap;

use crate::{
    pod::{Container, Fact, Owner, OwnerCache, OwnerKey, Pod},
    report::{Report, Reports, Source, SourceKind},
};

/// The most reports that wait at a time. Beyond it the oldest of the owner with the most goes without a name.
const MAX_WAITING: usize = 1_024;

pub(super) struct Attribution {
    /// How long a report waits, in ns. 0: there is no container runtime to ask.
    max_wait: u64,
    owners: OwnerCache,
    /// When each report began to wait, the key of its owner, and the report; oldest first.
    waiting: VecDeque<(u64, OwnerKey, Box<Report>)>,
    /// How many reports wait for each owner.
    waiting_by_owner: HashMap<OwnerKey, usize>,
}

impl Attribution {
    pub(super) fn new(max_wait: u64, owner_ttl: u64) -> Self {
        let (waiting, waiting_by_owner) = (VecDeque::new(), HashMap::default());
        Self { max_wait, owners: OwnerCache::new(owner_ttl), waiting, waiting_by_owner }
    }

    /// Asks for an owner before its first report is due.
    pub(super) fn announce(&mut self, key: Option<OwnerKey>, time: u64) {
        if let Some(key) = key {
            self.owner(key, time);
        }
    }

    /// The owner of a process, if it is known; else it is asked for.
    pub(super) fn owner(&mut self, key: OwnerKey, time: u64) -> Option<&Owner> {
        if self.max_wait == 0 {
            return None;
        }
        self.owners.owner(key, time)
    }

    /// Appends a report to `reports`, now or when its owner is known.
    pub(super) fn submit(
        &mut self,
        key: Option<OwnerKey>,
        mut report: Box<Report>,
        time: u64,
        reports: &mut Reports,
    ) {
        let Some(key) = key.filter(|_| self.max_wait > 0) else {
            reports.push(report);
            return;
        };
        if let Some(owner) = self.owners.owner(key, time) {
            if set_owner(&mut report.source, owner) {
                reports.push(report);
            }
            return;
        }
        if self.waiting.len() >= MAX_WAITING
            && let Some(most) = self.waiting_by_owner.iter().max_by_key(|(key, count)| (**count, **key))
        {
            let most = *most.0;
            let at = self.waiting.iter().position(|(_, key, _)| *key == most);
            reports.extend(at.and_then(|at| self.waiting.remove(at)).map(|(.., oldest)| oldest));
            self.left(most);
        }
        self.waiting.push_back((time, key, report));
        *self.waiting_by_owner.entry(key).or_default() += 1;
    }

    /// Takes a fact and appends the reports that waited for it.
    pub(super) fn learn(&mut self, fact: Fact, time: u64, reports: &mut Reports) {
        let Some(key) = self.owners.learn(fact, time) else { return };
        let Some(owner) = self.owners.owner(key, time) else { return };
        if self.waiting_by_owner.remove(&key).is_none() {
            return;
        }
        for (since, waits_for, mut report) in std::mem::take(&mut self.waiting) {
            if waits_for != key {
                self.waiting.push_back((since, waits_for, report));
            } else if set_owner(&mut report.source, owner) {
                reports.push(report);
            }
        }
    }

    /// Appends the reports that have waited for long enough.
    pub(super) fn advance(&mut self, time: u64, reports: &mut Reports) {
        while self.waiting.front().is_some_and(|(since, ..)| since.saturating_add(self.max_wait) <= time) {
            let Some((_, key, report)) = self.waiting.pop_front() else { break };
            self.left(key);
            reports.push(report);
        }
    }

    /// A report does not wait for this owner any more.
    fn left(&mut self, key: OwnerKey) {
        if let Some(waiting) = self.waiting_by_owner.get_mut(&key) {
            *waiting -= 1;
            if *waiting == 0 {
                self.waiting_by_owner.remove(&key);
            }
        }
    }

    /// Forgets owners whose time to live is over.
    pub(super) fn expire(&mut self, time: u64) {
        self.owners.expire(time);
    }

    /// Appends all reports that wait.
    pub(super) fn finish(&mut self, reports: &mut Reports) {
        self.waiting_by_owner.clear();
        reports.extend(self.waiting.drain(..).map(|(.., report)| report));
    }

    pub(super) fn take_wanted(&mut self) -> Vec<OwnerKey> {
        self.owners.take_wanted()
    }

    pub(super) fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.owners.take_gone()
    }
}

/// Fills in the owner and returns whether its sessions are to be reported.
fn set_owner(source: &mut Source, owner: &Owner) -> bool {
    match owner {
        Owner::Container(Container { name, pod }) => {
            source.namespace = Some(pod.namespace.clone());
            source.pod = Some(pod.name.clone());
            source.container = Some(name.clone());
            source.workload = Some(pod.workload.clone());
            source.kind = Some(if pod.host_network { SourceKind::HostNetworkPod } else { SourceKind::Pod });
            source.injected = Some(pod.injected);
            source.owner = Some(Arc::clone(pod));
            !pod.ignored
        }
        Owner::Host => {
            source.kind = Some(SourceKind::Host);
            true
        }
        Owner::Unknown => true,
    }
}
