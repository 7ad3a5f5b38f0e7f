//! One sidecar's configuration asked about the proxies of its apps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tracer_core::verdict::{Reason, Verdict};
use tracer_mesh::Dump;

use super::environment::SettingsFinding;
use crate::explain::{self, FoundDump, ProxyTarget};

/// Where a sidecar's configuration is.
#[derive(Debug)]
pub enum ConfigSource {
    /// The admin port in the network namespace of a process.
    Process {
        /// The process.
        pid: u32,
        /// The port.
        admin_port: u16,
    },
    /// A saved dump.
    Found(FoundDump),
}

/// How a proxy is known: the variables that name it, `seen`, `given`.
pub type ProxyUse = BTreeMap<ProxyTarget, BTreeSet<String>>;

/// A sidecar to ask.
#[derive(Debug)]
pub struct AuditSubject {
    /// `NAMESPACE/POD`, where it is known before the configuration is.
    pub pod: Option<String>,
    /// What to call it otherwise.
    pub label: String,
    /// Where its configuration is.
    pub source: ConfigSource,
    /// The proxies of its apps.
    pub proxies: ProxyUse,
    /// What is wrong with the settings of its apps.
    pub findings: Vec<SettingsFinding>,
}

/// What is asked about every proxy.
#[derive(Clone, Debug)]
pub struct Question {
    /// The app's first bytes.
    pub head: Vec<u8>,
    /// Ports that receive redirected connections.
    pub redirect_ports: Vec<u16>,
}

/// The answers of one sidecar.
#[derive(Clone, Debug)]
pub struct AuditedSidecar {
    /// `NAMESPACE/POD`, or what else it is called.
    pub name: String,
    /// Whether `name` is a pod's.
    pub is_pod: bool,
    /// One for each address of each proxy.
    pub pairs: Vec<AuditedPair>,
    /// What is wrong with the settings of its apps.
    pub findings: Vec<SettingsFinding>,
    /// Why its configuration could not be read.
    pub error: Option<String>,
}

/// What one sidecar would do with a CONNECT to one address of a proxy.
#[derive(Clone, Debug, Serialize)]
pub struct AuditedPair {
    /// The proxy as the app names it.
    pub proxy: String,
    /// The address; `null` where the name does not resolve.
    pub to: Option<SocketAddr>,
    /// How the proxy is known.
    pub known_from: Vec<String>,
    /// The verdict that a session would get.
    pub verdict: Option<Verdict>,
    /// Its reason.
    pub reason: Option<Reason>,
    /// The status of the sidecar's own answer.
    pub status: Option<u16>,
    /// A session would be flagged.
    pub flagged: bool,
    /// Whether everything on the way of the connection is understood.
    pub certain: bool,
    /// What is left open.
    pub caveats: Vec<String>,
    /// The objects at fault.
    pub cause: Option<String>,
    /// The best fix's title.
    pub fix: Option<String>,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// Names of proxies that are resolved at once: a resolver that does not answer costs seconds for each.
const RESOLVED_AT_ONCE: usize = 32;

/// The addresses of proxies: many apps use the same.
type Addresses = BTreeMap<ProxyTarget, Result<Vec<SocketAddr>, String>>;

/// Asks every sidecar. The answers are in the order of `subjects`. At most `at_once` configurations are held at a time, each
/// of which may be tens of megabytes.
pub fn audit(subjects: Vec<AuditSubject>, question: &Question, at_once: usize) -> Vec<AuditedSidecar> {
    let addresses = resolve_all(&subjects);
    let count = subjects.len();
    let open = Mutex::new(subjects.into_iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                loop {
                    let next = open.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, subject)) = next else { return };
                    let answer = one(subject, question, &addresses);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, answer)| answer).collect()
}

fn resolve_all(subjects: &[AuditSubject]) -> Addresses {
    let targets: BTreeSet<&ProxyTarget> =
        subjects.iter().flat_map(|subject| subject.proxies.keys()).collect();
    let targets: Vec<&ProxyTarget> = targets.into_iter().collect();
    let known = Mutex::new(Addresses::new());
    for some in targets.chunks(RESOLVED_AT_ONCE) {
        std::thread::scope(|scope| {
            for target in some {
                scope.spawn(|| {
                    let found = target.resolve().map_err(|error| format!("{error:#}"));
                    known.lock().unwrap_or_else(PoisonError::into_inner).insert((*target).clone(), found);
                });
            }
        });
    }
    known.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn one(subject: AuditSubject, question: &Question, known: &Addresses) -> AuditedSidecar {
    let AuditSubject { pod, label, source, proxies, findings } = subject;
    let config = match source {
        ConfigSource::Process { pid, admin_port } => explain::fetch(pid, admin_port),
        ConfigSource::Found(found) => explain::read(found),
    };
    let mut answer = AuditedSidecar {
        is_pod: pod.is_some(),
        name: pod.unwrap_or(label),
        pairs: Vec::new(),
        findings,
        error: None,
    };
    match config {
        Ok(dump) => {
            if let Some(pod) = dump.subject().pod.filter(|_| !answer.is_pod) {
                (answer.name, answer.is_pod) = (pod, true);
            }
            let dump = dump.redirected_to(&question.redirect_ports);
            for (target, known_from) in proxies {
                answer.pairs.extend(of_proxy(&dump, &target, &known_from, question, known));
            }
        }
        Err(error) => {
            let error = format!("{error:#}");
            answer.pairs.extend(
                proxies.iter().map(|(target, known_from)| unanswered(target, known_from, error.clone())),
            );
            answer.error = Some(error);
        }
    }
    answer
}

fn unanswered(target: &ProxyTarget, known_from: &BTreeSet<String>, error: String) -> AuditedPair {
    AuditedPair {
        proxy: target.to_string(),
        to: None,
        known_from: known_from.iter().cloned().collect(),
        verdict: None,
        reason: None,
        status: None,
        flagged: false,
        certain: false,
        caveats: Vec::new(),
        cause: None,
        fix: None,
        error: Some(error),
    }
}

/// The answers for all addresses of one proxy.
fn of_proxy(
    dump: &Dump,
    target: &ProxyTarget,
    known_from: &BTreeSet<String>,
    question: &Question,
    known: &Addresses,
) -> Vec<AuditedPair> {
    let addresses = match known.get(target) {
        Some(Ok(addresses)) => addresses.as_slice(),
        Some(Err(error)) => return vec![unanswered(target, known_from, error.clone())],
        None => &[],
    };
    let explanations = match tracer_mesh::explain(dump, addresses, &question.head) {
        Ok(explanations) => explanations,
        Err(error) => return vec![unanswered(target, known_from, error.to_string())],
    };
    let pair = |explanation: tracer_mesh::Explanation| {
        let decision = explanation.decision;
        let cause = explanation.origins.first().map(|origin| {
            let more = match explanation.origins_total.saturating_sub(1) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{}{more}", origin.label())
        });
        AuditedPair {
            to: Some(explanation.to),
            flagged: decision.verdict.is_some_and(Verdict::is_flagged),
            fix: explanation.fixes.into_iter().next().map(|fix| fix.title).filter(|_| decision.is_fault()),
            verdict: decision.verdict,
            reason: decision.reason,
            status: decision.status,
            certain: decision.certain,
            caveats: decision.caveats,
            cause,
            error: None,
            ..unanswered(target, known_from, String::new())
        }
    };
    explanations.into_iter().map(pair).collect()
}

impl AuditedSidecar {
    /// The verdict that counts for the sidecar: the first flagged one, else the first one.
    pub fn verdict(&self) -> Option<Verdict> {
        let flagged = self.pairs.iter().find(|pair| pair.flagged);
        flagged.or(self.pairs.iter().find(|pair| pair.verdict.is_some())).and_then(|pair| pair.verdict)
    }
}
