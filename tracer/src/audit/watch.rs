//! The audit that the agent keeps current for its metric. It runs beside the pipeline, on a thread of its own, and a slow or
//! hostile admin port delays nothing but the metric.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::node::{SeenProxies, on_node};
use super::processes::ProcessScope;
use super::verdicts::{AuditSubject, AuditedSidecar, ConfigSource, ProxyUse, Question, audit};
use crate::explain;
use crate::metrics::Metrics;
use crate::runtime::{RuntimeEndpoint, container_names};
use tracer_core::report::Report;

/// The pause between two audits. A configuration of 5,000 services costs half a second of a processor.
const PAUSE: Duration = Duration::from_mins(1);

/// The wait before the first audit: an agent that starts has more urgent work.
const FIRST: Duration = Duration::from_secs(2);

/// Rounds after which an unchanged configuration is read anyway: routes may change without a new listener or cluster.
const MAX_AGE: u32 = 5;

/// The agent's audit.
#[derive(Clone, Default)]
pub struct Watch(Option<Rc<RefCell<SeenProxies>>>);

impl Watch {
    /// Audits for as long as the current `LocalSet` runs, and keeps the metric current.
    pub fn spawn(
        scope: ProcessScope,
        question: Question,
        endpoint: Option<RuntimeEndpoint>,
        metrics: Metrics,
    ) -> Self {
        let seen = Rc::new(RefCell::new(SeenProxies::default()));
        tokio::task::spawn_local(keep_current(scope, question, endpoint, metrics, Rc::clone(&seen)));
        Self(Some(seen))
    }

    /// Notes the proxy of a session.
    pub fn note(&self, report: &Report) {
        if let Some(seen) = &self.0 {
            seen.borrow_mut().note(report);
        }
    }
}

async fn keep_current(
    scope: ProcessScope,
    question: Question,
    endpoint: Option<RuntimeEndpoint>,
    metrics: Metrics,
    seen: Rc<RefCell<SeenProxies>>,
) {
    let mut memory = Memory::default();
    tokio::time::sleep(FIRST).await;
    loop {
        let containers = match &endpoint {
            Some(endpoint) => container_names(endpoint).await.unwrap_or_else(|error| {
                log::debug!("the audit goes without the names of pods: {error:#}");
                HashMap::new()
            }),
            None => HashMap::new(),
        };
        let (scope, question, seen) = (scope.clone(), question.clone(), seen.borrow().clone());
        let known = std::mem::take(&mut memory);
        // `/proc` of a large node and the sidecars' answers take their time.
        let audited = tokio::task::spawn_blocking(move || {
            on_node(&scope, &containers, &seen, &[]).map(|subjects| known.audit(subjects, &question))
        });
        match audited.await {
            Ok(Ok(audited)) => {
                // A sidecar without a known proxy has no verdict, and is no case of an unknown one either.
                let known =
                    audited.0.values().map(|one| &one.answer).filter(|answer| !answer.pairs.is_empty());
                metrics.set_audit(known.map(AuditedSidecar::verdict));
                memory = audited;
            }
            Ok(Err(error)) => log::warn!("no audit: {error:#}"),
            Err(error) => log::warn!("no audit: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The last answers by the process that was asked, with what they rest on.
#[derive(Default)]
struct Memory(HashMap<u32, Remembered>);

struct Remembered {
    /// The versions of the configuration; empty where they are not known.
    versions: Vec<u8>,
    proxies: ProxyUse,
    answer: AuditedSidecar,
    /// Rounds since the configuration was read.
    age: u32,
}

impl Memory {
    /// The answers of this round. A sidecar with the same configuration and the same proxies is not asked again.
    fn audit(mut self, subjects: Vec<AuditSubject>, question: &Question) -> Self {
        let mut kept = HashMap::new();
        let (mut changed, mut facts) = (Vec::new(), Vec::new());
        for subject in subjects {
            let ConfigSource::Process { pid, admin_port } = subject.source else { continue };
            let versions = explain::versions(pid, admin_port).unwrap_or_default();
            match self.0.remove(&pid) {
                Some(old)
                    if !versions.is_empty()
                        && old.versions == versions
                        && old.proxies == subject.proxies
                        && old.age < MAX_AGE =>
                {
                    kept.insert(pid, Remembered { age: old.age + 1, ..old });
                }
                _ => {
                    facts.push((pid, versions, subject.proxies.clone()));
                    changed.push(subject);
                }
            }
        }
        for ((pid, versions, proxies), answer) in facts.into_iter().zip(audit(changed, question, 1)) {
            kept.insert(pid, Remembered { versions, proxies, answer, age: 0 });
        }
        Self(kept)
    }
}
