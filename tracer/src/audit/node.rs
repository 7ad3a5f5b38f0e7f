//! The sidecars of this node, and the proxies of their apps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use anyhow::Context as _;

use super::environment::{SettingsCode, SettingsFinding, is_cluster_name};
use super::processes::{NetnsFacts, ProcessScope, namespaces, netns_of};
use super::verdicts::{AuditSubject, ConfigSource, ProxyUse};
use crate::explain::ProxyTarget;
use crate::runtime::ContainerName;
use tracer_core::report::{Direction, Report};

/// Proxies that sessions were seen to use, by the app's pod and by its network namespace.
#[derive(Clone, Debug, Default)]
pub struct SeenProxies {
    by_pod: BTreeMap<String, BTreeSet<SocketAddr>>,
    by_netns: HashMap<u64, BTreeSet<SocketAddr>>,
    /// Targets inside the cluster that apps asked their proxy for.
    cluster_names: BTreeMap<String, BTreeSet<String>>,
}

/// Apps and proxies that are kept; further ones are left out.
const MAX_APPS: usize = 4_096;
const MAX_PROXIES: usize = 64;

/// Proxies of one sidecar that are asked about. A pod chooses its environment, and each name in it costs a question to the
/// resolver.
const MAX_ASKED: usize = 16;

impl SeenProxies {
    /// Notes the proxy of a session.
    pub fn note(&mut self, report: &Report) {
        if report.direction != Direction::Outbound {
            return;
        }
        let proxy = SocketAddr::from(report.proxy);
        let pod = report.source.namespace.as_ref().zip(report.source.pod.as_ref());
        if let Some((namespace, pod)) = pod {
            let pod = format!("{namespace}/{pod}");
            let authority = report.connect.authority.as_str();
            if is_cluster_name(authority) {
                insert(&mut self.cluster_names, pod.clone(), authority.to_owned());
            }
            insert(&mut self.by_pod, pod, proxy);
        } else if let Some(netns) = report.source.pid.and_then(netns_of)
            && (self.by_netns.len() < MAX_APPS || self.by_netns.contains_key(&netns))
        {
            let proxies = self.by_netns.entry(netns).or_default();
            if proxies.len() < MAX_PROXIES {
                proxies.insert(proxy);
            }
        }
    }

    fn of(&self, netns: u64, pod: Option<&str>) -> impl Iterator<Item = SocketAddr> {
        let by_pod = pod.and_then(|pod| self.by_pod.get(pod));
        by_pod.into_iter().chain(self.by_netns.get(&netns)).flatten().copied()
    }

    fn cluster_name(&self, pod: Option<&str>) -> Option<&str> {
        self.cluster_names.get(pod?)?.first().map(String::as_str)
    }
}

fn insert<T: Ord>(map: &mut BTreeMap<String, BTreeSet<T>>, key: String, value: T) {
    if map.len() < MAX_APPS || map.contains_key(&key) {
        let values = map.entry(key).or_default();
        if values.len() < MAX_PROXIES {
            values.insert(value);
        }
    }
}

/// The sidecars in scope, each with the proxies of its apps and those of `given`.
///
/// # Errors
/// `/proc` or the cgroup cannot be read.
#[expect(clippy::implicit_hasher, reason = "there is one caller")]
pub fn on_node(
    scope: &ProcessScope,
    containers: &HashMap<String, ContainerName>,
    seen: &SeenProxies,
    given: &[ProxyTarget],
) -> anyhow::Result<Vec<AuditSubject>> {
    let found = namespaces(scope, containers).context(
        "cannot list the processes of this node in /proc, or of --cgroup: in a container, this needs hostPID and root",
    )?;
    Ok(found.into_iter().map(|facts| subject(facts, scope.admin_port, seen, given)).collect())
}

fn subject(facts: NetnsFacts, admin_port: u16, seen: &SeenProxies, given: &[ProxyTarget]) -> AuditSubject {
    let pod = facts.pod.map(|(namespace, pod)| format!("{namespace}/{pod}"));
    let mut proxies = ProxyUse::new();
    let mut findings = Vec::new();
    let mut add = |target: ProxyTarget, from: &str| {
        proxies.entry(target).or_default().insert(from.to_owned());
    };
    for environment in &facts.environments {
        for (target, names) in environment.proxies() {
            for name in names {
                add(target.clone(), name);
            }
        }
        findings.extend(environment.findings());
    }
    for address in seen.of(facts.netns, pod.as_deref()) {
        add(address.into(), "seen");
    }
    while proxies.len() > MAX_ASKED {
        proxies.pop_last();
    }
    for target in given {
        proxies.entry(target.clone()).or_default().insert("given".to_owned());
    }
    if let Some(name) = seen.cluster_name(pod.as_deref()) {
        let finding = format!("the app asked its proxy for {name}, which is inside the cluster");
        findings.push(SettingsFinding { code: SettingsCode::ClusterNameThroughProxy, finding });
    }
    findings.sort();
    findings.dedup();
    AuditSubject {
        label: format!("the network namespace of process {}", facts.pid),
        pod,
        source: ConfigSource::Process { pid: facts.pid, admin_port },
        proxies,
        findings,
    }
}
