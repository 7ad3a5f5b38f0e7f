//! What to change so that the CONNECT reaches the proxy, best first. Each fix is proven before it is shown: its effect is
//! laid over the dump and the connection is decided again. A fix that does not end in a tunnel is dropped.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::cluster::Cluster;
use super::decision::{Decision, Place};
use super::dump::Dump;
use super::evaluate::decide_with;
use super::json::Node;
use super::manifest::{Manifest, Scope};
use super::origin::{self, Declared, Origin, Origins};
use super::overlay::Edit;
use super::{Error, simulated_config};

/// A change that works on the dump.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fix {
    /// What it does, in one line.
    pub title: String,
    /// How the manifest, saved as `fix.yaml`, is applied.
    pub apply: String,
    /// YAML.
    pub manifest: String,
    /// What it costs, and what to watch.
    pub trade_off: String,
    /// How it was proven.
    pub proof: String,
    /// What istiod would change in the sidecar.
    #[serde(skip)]
    pub edit: Edit,
}

/// A connection that does not reach its proxy.
pub(crate) struct Failure<'a> {
    pub to: SocketAddr,
    pub decision: &'a Decision,
    pub origins: &'a Origins,
}

struct Candidate {
    title: String,
    apply: String,
    manifest: Manifest,
    trade_off: String,
    edit: Edit,
    /// The addresses that it is for.
    cures: Vec<SocketAddr>,
}

const APPLY: &str = "kubectl apply -f fix.yaml";
const CHANGE_ENTRY: &str =
    "kubectl edit the ServiceEntry that has this host (its own name is in no dump), so that it says";

fn patch_service(namespace: &str, name: &str) -> String {
    format!("kubectl -n {namespace} patch service {name} --patch-file fix.yaml, or rename the port to tcp-…")
}

/// The fixes for all of `failures`, which share the proxy and the app's first bytes `head`.
///
/// `reached` are addresses of the same proxy that are well, with what the sidecar decides about them.
pub(crate) fn fixes(
    dump: &Dump,
    failures: &[Failure<'_>],
    reached: &[(SocketAddr, &Decision)],
    head: &[u8],
) -> Result<Vec<Fix>, Error> {
    let mut proven = Vec::new();
    for candidate in candidates(dump, failures, reached)? {
        if let Some(fix) = prove(dump, candidate, head)? {
            proven.push(fix);
        }
    }
    Ok(proven)
}

/// Applies a candidate to the dump and decides again; `None` unless every address it is for reaches its proxy.
fn prove(dump: &Dump, candidate: Candidate, head: &[u8]) -> Result<Option<Fix>, Error> {
    let mut ends = Vec::new();
    for to in &candidate.cures {
        let decision = decide_with(dump, &candidate.edit, *to, head)?;
        if !decision.reaches_proxy() {
            return Ok(None);
        }
        ends.push(match (&decision.listener, &decision.cluster, decision.inner.place) {
            (_, _, Place::NotRedirected) => format!("{to} bypasses Envoy"),
            (Some(listener), Some(cluster), _) => format!("{to} takes {listener} to {cluster} as TCP"),
            (_, _, Place::Exact | Place::Wildcard | Place::Entry) => format!("{to} passes as TCP"),
        });
    }
    let proof = format!("Proven on this dump: with it applied, {}.", ends.join("; "));
    let Candidate { title, apply, manifest, trade_off, edit, cures: _ } = candidate;
    Ok(Some(Fix { title, apply, manifest: manifest.yaml(), trade_off, proof, edit }))
}

fn candidates(
    dump: &Dump,
    failures: &[Failure<'_>],
    reached: &[(SocketAddr, &Decision)],
) -> Result<Vec<Candidate>, Error> {
    let mut candidates = Vec::new();
    let mut external = Vec::new();
    for failure in failures {
        if failure.decision.inner.wraps_tls {
            candidates.extend(no_tls(dump, failure)?);
        } else if let Some(service) = origin::service_at(dump, failure.decision, failure.to.ip())? {
            // The address is a service of the mesh: a second declaration of it beside the first does not help
            // (istio#34245), its own port has to say TCP.
            candidates.extend(own_port(&service, failure.to));
        } else if failure.decision.inner.place != Place::Exact {
            external.push(failure);
        }
    }
    if !external.is_empty() {
        candidates.push(match existing_entry(reached) {
            Some(entry) => more_addresses(dump, &entry, reached, &external)?,
            None => service_entry(dump, &external),
        });
        candidates.extend(unrelated_ports(&external));
        candidates.extend(sidecar(dump, &external));
    }
    let excludable: Vec<SocketAddr> = failures.iter().map(|failure| failure.to).collect();
    if !excludable.is_empty() && failures.iter().all(|failure| !failure.to.ip().is_loopback()) {
        candidates.push(exclude(excludable));
    }
    Ok(candidates)
}

fn addresses(failures: &[&Failure<'_>]) -> (Vec<SocketAddr>, Vec<IpAddr>, Vec<u16>) {
    let cures: Vec<SocketAddr> = failures.iter().map(|failure| failure.to).collect();
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut ports: Vec<u16> = Vec::new();
    for to in &cures {
        if !ips.contains(&to.ip()) {
            ips.push(to.ip());
        }
        if !ports.contains(&to.port()) {
            ports.push(to.port());
        }
    }
    (cures, ips, ports)
}

/// A TCP ServiceEntry with all of the proxy's addresses.
fn service_entry(dump: &Dump, failures: &[&Failure<'_>]) -> Candidate {
    let (cures, ips, ports) = addresses(failures);
    let name = format!("forward-proxy-{}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join("-"));
    // The host is not used for matching, but it must be a valid one that nothing else declares.
    let host = format!("{name}.external");
    let scope = match app_namespace(dump) {
        Some(namespace) => Scope { namespace, is_private: true },
        // The root namespace: seen by all.
        None => Scope { namespace: "istio-system".to_owned(), is_private: false },
    };
    let seen_by = if scope.is_private {
        format!("It is seen by namespace {} only; without exportTo by all.", scope.namespace)
    } else {
        "It is seen by every namespace.".to_owned()
    };
    let list = cures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Candidate {
        title: format!("ServiceEntry: send {list} as TCP"),
        apply: APPLY.to_owned(),
        trade_off: format!(
            "List every address that the proxy's name resolves to: each one left out keeps failing. {seen_by} A \
             Sidecar resource that restricts egress.hosts must import {}/{host}, and no DestinationRule may give that \
             host TLS.",
            scope.namespace
        ),
        edit: simulated_config::service_entry(&host, &ips, &ports),
        manifest: Manifest::service_entry(name, host, &scope, &ips, &ports),
        cures,
    }
}

/// The host and port of a ServiceEntry that already takes some of the proxy's addresses.
fn existing_entry(reached: &[(SocketAddr, &Decision)]) -> Option<(String, u16)> {
    reached.iter().find_map(|(_, decision)| {
        let (port, host) = origin::outbound_cluster(decision.cluster.as_deref()?)?;
        let is_kubernetes = host.split('.').nth(2) == Some("svc");
        (decision.inner.place == Place::Exact && !is_kubernetes).then(|| (host.to_owned(), port))
    })
}

/// The proxy's ServiceEntry is there, but does not list all of its addresses.
fn more_addresses(
    dump: &Dump,
    (host, port): &(String, u16),
    reached: &[(SocketAddr, &Decision)],
    failures: &[&Failure<'_>],
) -> Result<Candidate, Error> {
    let (cures, missing, _) = addresses(failures);
    let known = reached.iter().map(|(to, _)| to.ip());
    let all: Vec<IpAddr> = known.chain(missing.iter().copied()).collect();
    let name = format!("outbound|{port}||{host}");
    let namespace = match dump.cluster_entry(&name)? {
        Some(value) => Cluster::read(&value, None).services.into_iter().find_map(|service| service.namespace),
        None => None,
    };
    let scope =
        Scope { namespace: namespace.unwrap_or_else(|| "istio-system".to_owned()), is_private: false };
    let mut edit = Edit::default();
    for to in &cures {
        edit.listeners.append(&mut simulated_config::tcp_port(*to, &name).listeners);
    }
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(Candidate {
        title: format!("ServiceEntry for {host}: add {list}"),
        apply: CHANGE_ENTRY.to_owned(),
        manifest: Manifest::service_entry(host.replace(['.', '*'], "-"), host.clone(), &scope, &all, &[*port]),
        trade_off: "Keep every address that the entry had, and list every one that the proxy's name resolves to: each \
                    one left out keeps failing."
            .to_owned(),
        edit,
        cures,
    })
}

/// The dialed address is a Service of the mesh: its own port has to say TCP.
fn own_port(service: &Origin, to: SocketAddr) -> Option<Candidate> {
    let (host, port) = (service.host.as_deref()?, service.port?);
    let cluster = format!("outbound|{port}||{host}");
    match (service.kind, service.name.as_deref(), service.namespace.as_deref()) {
        ("Service", Some(name), Some(namespace)) => Some(Candidate {
            title: format!("Service {namespace}/{name}: declare port {port} as TCP"),
            apply: patch_service(namespace, name),
            manifest: Manifest::tcp_port(name, namespace, port),
            trade_off: "The proxy's port loses HTTP routing and HTTP metrics for every client, which a forward proxy \
                        has no use for. If the proxy's pods have a sidecar, this mends its inbound side too."
                .to_owned(),
            edit: simulated_config::tcp_port(to, &cluster),
            cures: vec![to],
        }),
        _ => Some(Candidate {
            title: format!("ServiceEntry for {host}: declare port {port} as TCP"),
            apply: CHANGE_ENTRY.to_owned(),
            manifest: Manifest::service_entry(
                host.replace('.', "-"),
                host.to_owned(),
                &Scope {
                    namespace: service.namespace.clone().unwrap_or_else(|| "istio-system".to_owned()),
                    is_private: false,
                },
                &[to.ip()],
                &[port],
            ),
            trade_off: "A second ServiceEntry beside the first does not help: the one that declares the port must \
                        change. Keep every address it had."
                .to_owned(),
            edit: simulated_config::tcp_port(to, &cluster),
            cures: vec![to],
        }),
    }
}

/// Services that have nothing to do with the proxy, but whose HTTP port made the listener.
fn unrelated_ports(failures: &[&Failure<'_>]) -> Option<Candidate> {
    let (cures, _, _) = addresses(failures);
    let first = failures.first()?;
    let origins = first.origins;
    let [service] = origins.list.as_slice() else { return None };
    let same = failures.iter().all(|failure| failure.origins == origins);
    if !same || origins.total != 1 || origins.declared != Declared::Http || service.kind != "Service" {
        return None;
    }
    let (name, namespace, port) = (service.name.as_deref()?, service.namespace.as_deref()?, service.port?);
    Some(Candidate {
        title: format!("Service {namespace}/{name}: declare its unrelated port {port} as TCP"),
        apply: patch_service(namespace, name),
        manifest: Manifest::tcp_port(name, namespace, port),
        trade_off: format!(
            "{namespace}/{name} loses HTTP routing, retries and HTTP metrics in the whole mesh; the next HTTP service \
             on port {port} brings the fault back."
        ),
        edit: Edit { removed_listeners: listener_names(failures), ..Edit::default() },
        cures,
    })
}

/// A Sidecar resource that hides the origins from the app's namespace.
fn sidecar(dump: &Dump, failures: &[&Failure<'_>]) -> Option<Candidate> {
    let (cures, _, _) = addresses(failures);
    let namespace = app_namespace(dump)?;
    let hidden = |origin: &Origin| {
        origin.namespace.as_ref().is_some_and(|other| *other != namespace && other != "istio-system")
    };
    let all_hidden = failures.iter().all(|failure| {
        let origins = failure.origins;
        origins.declared == Declared::Http
            && !origins.list.is_empty()
            && origins.total == origins.list.len()
            && origins.list.iter().all(hidden)
    });
    all_hidden.then(|| Candidate {
        title: format!("Sidecar: hide other namespaces' services from {namespace}"),
        apply: APPLY.to_owned(),
        manifest: Manifest::own_namespace_only(&namespace),
        trade_off: format!(
            "Workloads in {namespace} no longer see services of any other namespace but istio-system; add those they \
             call to egress.hosts. It replaces the namespace's Sidecar if there is one."
        ),
        edit: Edit { removed_listeners: listener_names(failures), ..Edit::default() },
        cures,
    })
}

fn listener_names(failures: &[&Failure<'_>]) -> Vec<String> {
    failures.iter().filter_map(|failure| failure.decision.listener.clone()).collect()
}

fn exclude(cures: Vec<SocketAddr>) -> Candidate {
    let ips: Vec<IpAddr> = cures.iter().map(SocketAddr::ip).collect();
    Candidate {
        title: "Pod annotation: leave the proxy's addresses out of the redirect".to_owned(),
        apply: "kubectl patch deployment NAME --patch-file fix.yaml".to_owned(),
        manifest: Manifest::exclude(&ips),
        trade_off:
            "The pods restart. Envoy no longer sees these connections: no telemetry, and no REGISTRY_ONLY \
                    enforcement for them. It replaces the annotation if there is one."
                .to_owned(),
        edit: Edit { bypassed: cures.clone(), ..Edit::default() },
        cures,
    }
}

/// A DestinationRule makes Envoy speak TLS to the proxy.
fn no_tls(dump: &Dump, failure: &Failure<'_>) -> Result<Option<Candidate>, Error> {
    let Some(cluster_name) = failure.decision.cluster.as_deref() else { return Ok(None) };
    let Some((_, host)) = origin::outbound_cluster(cluster_name) else { return Ok(None) };
    let Some(cluster) = dump.cluster_entry(cluster_name)? else { return Ok(None) };
    let rule = failure.origins.list.iter().find(|origin| origin.kind == "DestinationRule");
    let service = failure.origins.list.iter().find(|origin| origin.host.is_some());
    let namespace = rule.or(service).and_then(|origin| origin.namespace.clone());
    let namespace = namespace.or_else(|| app_namespace(dump)).unwrap_or_else(|| "istio-system".to_owned());
    let name = rule.and_then(|rule| rule.name.clone()).unwrap_or_else(|| host.replace(['.', '*'], "-"));
    Ok(Some(Candidate {
        title: format!("DestinationRule {namespace}/{name}: no TLS to {host}"),
        apply: APPLY.to_owned(),
        manifest: Manifest::no_tls(name, namespace, host.to_owned()),
        trade_off: "It stands in place of the rule of that name: keep its other settings. The CONNECT then travels to \
                    the proxy in plaintext, as the app sent it."
            .to_owned(),
        edit: simulated_config::without_tls(cluster),
        cures: vec![failure.to],
    }))
}

/// The namespace of the pod whose sidecar the dump is from (`bootstrap.node.metadata.NAMESPACE`).
fn app_namespace(dump: &Dump) -> Option<String> {
    let node = dump.node()?;
    Node::of(&node).field("metadata").key("NAMESPACE").text().map(str::to_owned)
}
