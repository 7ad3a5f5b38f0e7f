//! Names reports: fills in whose process asked. A report whose owner is not known yet waits for that, for a moment; so
//! names are as much a function of the inputs as verdicts are.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    pod::{Container, Fact, Key, Names, Owner, Pod},
    report::{Kind, Report, Reports, Source},
};

/// How many reports may wait at once; the oldest goes without a name then.
const WAITING: usize = 1_024;

pub(super) struct Naming {
    /// How long a report waits, in ns; 0: nobody would answer.
    patience: u64,
    names: Names,
    /// In the order in which they came.
    waiting: VecDeque<(u64, Key, Box<Report>)>,
}

impl Naming {
    pub(super) fn new(patience: u64, remember: u64) -> Self {
        Self { patience, names: Names::new(remember), waiting: VecDeque::new() }
    }

    /// Something will be reported of this owner soon.
    pub(super) fn announce(&mut self, key: Option<Key>, time: u64) {
        if let Some(key) = key.filter(|_| self.patience > 0) {
            self.names.owner(key, time);
        }
    }

    /// Hands on a report: now, or when its owner is known.
    pub(super) fn submit(
        &mut self,
        key: Option<Key>,
        mut report: Box<Report>,
        time: u64,
        reports: &mut Reports,
    ) {
        let Some(key) = key.filter(|_| self.patience > 0) else {
            reports.push(report);
            return;
        };
        if let Some(owner) = self.names.owner(key, time) {
            if name(&mut report.source, owner) {
                reports.push(report);
            }
            return;
        }
        if self.waiting.len() >= WAITING {
            reports.extend(self.waiting.pop_front().map(|(.., oldest)| oldest));
        }
        self.waiting.push_back((time, key, report));
    }

    /// Takes a fact, and hands on the reports that waited for it.
    pub(super) fn learn(&mut self, fact: Fact, time: u64, reports: &mut Reports) {
        let Some(key) = self.names.learn(fact, time) else { return };
        let Some(owner) = self.names.owner(key, time) else { return };
        for (at, waits_for, mut report) in std::mem::take(&mut self.waiting) {
            if waits_for != key {
                self.waiting.push_back((at, waits_for, report));
            } else if name(&mut report.source, owner) {
                reports.push(report);
            }
        }
    }

    /// Hands on what has waited for long enough, and forgets what is gone for long enough.
    pub(super) fn pass(&mut self, time: u64, reports: &mut Reports) {
        while self.waiting.front().is_some_and(|(since, ..)| since.saturating_add(self.patience) <= time) {
            reports.extend(self.waiting.pop_front().map(|(.., report)| report));
        }
    }

    pub(super) fn forget(&mut self, time: u64) {
        self.names.pass(time);
    }

    /// Hands on all that waits.
    pub(super) fn finish(&mut self, reports: &mut Reports) {
        reports.extend(self.waiting.drain(..).map(|(.., report)| report));
    }

    pub(super) fn take_wanted(&mut self) -> Vec<Key> {
        self.names.take_wanted()
    }

    pub(super) fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.names.take_gone()
    }
}

/// Fills in the owner; false: it does not want to be reported.
fn name(source: &mut Source, owner: &Owner) -> bool {
    match owner {
        Owner::Container(Container { name, pod }) => {
            source.namespace = Some(pod.namespace.clone());
            source.pod = Some(pod.name.clone());
            source.container = Some(name.clone());
            source.workload = Some(pod.workload.clone());
            source.kind = Some(if pod.host_network { Kind::HostNetworkPod } else { Kind::Pod });
            source.injected = Some(pod.injected);
            source.owner = Some(Arc::clone(pod));
            !pod.ignored
        }
        Owner::Host => {
            source.kind = Some(Kind::Host);
            true
        }
        Owner::Unknown => true,
    }
}
