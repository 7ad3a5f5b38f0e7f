//! The changes that may make a CONNECT reach the proxy, best first: what each applies, and what it would change in the
//! sidecar. They are not proven here.

use std::net::{IpAddr, SocketAddr};

use super::cluster::Cluster;
use super::decision::{Decision, Place};
use super::dump::Dump;
use super::manifest::{Manifest, Scope, object_name};
use super::origin::{self, Declared, Origin, Origins};
use super::overlay::Edit;
use super::{Error, simulated_config};

/// A connection that does not reach its proxy.
pub(crate) struct Failure<'a> {
    pub to: SocketAddr,
    pub decision: &'a Decision,
    pub origins: &'a Origins,
}

/// A change that may help.
pub(crate) struct Candidate {
    pub title: String,
    pub apply: String,
    pub manifest: Manifest,
    pub trade_off: String,
    pub edit: Edit,
    /// The addresses that it is for.
    pub cures: Vec<SocketAddr>,
}

const APPLY: &str = "kubectl apply -f fix.yaml";
const CHANGE_ENTRY: &str =
    "kubectl edit the ServiceEntry that has this host (its own name is in no dump), so that it says";

fn patch_service(namespace: &str, name: &str) -> String {
    format!("kubectl -n {namespace} patch service {name} --patch-file fix.yaml, or rename the port to tcp-…")
}

/// All candidates for `failures`; `reached` are addresses of the same proxy that are well.
pub(crate) fn candidates(
    dump: &Dump,
    failures: &[Failure<'_>],
    reached: &[(SocketAddr, &Decision)],
) -> Result<Vec<Candidate>, Error> {
    // Neither a ServiceEntry nor a redirect annotation changes a gateway's or an inbound listener.
    if failures.iter().any(|failure| failure.decision.inner.is_gateway || failure.decision.inner.is_inbound) {
        return Ok(Vec::new());
    }
    let mut candidates = Vec::new();
    let mut external = Vec::new();
    // Addresses that exist without the mesh; a Service's or an allocated address leads nowhere without Envoy, or to a
    // proxy whose own sidecar reads the same bytes as HTTP.
    let mut real = Vec::new();
    for failure in failures {
        let is_exact = failure.decision.inner.place == Place::Exact;
        if let Some(service) = origin::service_at(dump, failure.decision, failure.to.ip())? {
            // The address is a service of the mesh: a second declaration of it beside the first does not help
            // (istio#34245), its own port has to say TCP.
            candidates.extend(own_port(&service, failure.to));
        } else if failure.decision.inner.wraps_tls && is_exact {
            candidates.extend(no_tls(dump, failure)?);
            real.push(failure.to);
        } else if let Some(service) = headless_service(dump, failure)? {
            candidates.extend(headless_port(&service, failure));
        } else if !is_exact {
            external.push(failure);
            real.push(failure.to);
        } else if !failure.decision.inner.no_host {
            real.push(failure.to);
        }
    }
    if !external.is_empty() {
        candidates.push(match existing_entry(reached) {
            Some(entry) => more_addresses(&entry, reached, &external),
            None => service_entry(dump, &external),
        });
        candidates.extend(unrelated_ports(dump, &external)?);
        candidates.extend(sidecar(dump, &external));
    }
    if real.len() == failures.len() && !real.is_empty() && real.iter().all(|to| !to.ip().is_loopback()) {
        candidates.push(exclude(real));
    }
    Ok(candidates)
}

/// The one Service behind the listener, where it is headless: istiod makes an `ORIGINAL_DST` cluster for it, and one
/// listener for each pod once its port is TCP.
///
/// Source: istio pilot/pkg/networking/core/listener.go `buildSidecarOutboundListeners` (headless services).
fn headless_service(dump: &Dump, failure: &Failure<'_>) -> Result<Option<Origin>, Error> {
    let [service] = failure.origins.list.as_slice() else { return Ok(None) };
    if failure.origins.total != 1 || service.kind != "Service" {
        return Ok(None);
    }
    let (Some(host), Some(port)) = (&service.host, service.port) else { return Ok(None) };
    let cluster = dump.cluster_entry(&format!("outbound|{port}||{host}"))?;
    let is_headless = cluster.is_some_and(|value| Cluster::read(&value, None, None).dials_original);
    Ok(is_headless.then(|| service.clone()))
}

fn headless_port(service: &Origin, failure: &Failure<'_>) -> Option<Candidate> {
    let (host, port) = (service.host.as_deref()?, service.port?);
    let (name, namespace) = (service.name.as_deref()?, service.namespace.as_deref()?);
    Some(Candidate {
        title: format!("Service {namespace}/{name}: declare port {port} as TCP"),
        apply: patch_service(namespace, name),
        manifest: Manifest::tcp_port(name, namespace, port),
        trade_off: format!(
            "The Service is headless, so {} can be one of its pods. Its port loses HTTP routing and HTTP metrics for \
             every client.",
            failure.to.ip()
        ),
        edit: Edit {
            removed_listeners: failure.decision.listener.clone().into_iter().collect(),
            ..simulated_config::tcp_port(failure.to, &format!("outbound|{port}||{host}"))
        },
        cures: vec![failure.to],
    })
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
    let parts = ips.iter().map(ToString::to_string).chain(ports.iter().map(u16::to_string));
    let name = object_name("forward-proxy", &parts.collect::<Vec<_>>());
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
    (host, port): &(String, u16),
    reached: &[(SocketAddr, &Decision)],
    failures: &[&Failure<'_>],
) -> Candidate {
    let (cures, missing, _) = addresses(failures);
    let known = reached.iter().map(|(to, _)| to.ip());
    let all: Vec<IpAddr> = known.chain(missing.iter().copied()).collect();
    let name = format!("outbound|{port}||{host}");
    let mut edit = Edit::default();
    for to in &cures {
        edit.listeners.append(&mut simulated_config::tcp_port(*to, &name).listeners);
    }
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Candidate {
        title: format!("ServiceEntry for {host}: add {list}"),
        apply: CHANGE_ENTRY.to_owned(),
        manifest: Manifest::more_addresses(&all),
        trade_off: "Keep every address that the entry had, and list every one that the proxy's name resolves to: each \
                    one left out keeps failing."
            .to_owned(),
        edit,
        cures,
    }
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
            manifest: Manifest::entry_port(port),
            trade_off: "A second ServiceEntry beside the first does not help: the one that declares the port must \
                        change. Only the protocol of its port does: its addresses, resolution and endpoints stay."
                .to_owned(),
            edit: simulated_config::tcp_port(to, &cluster),
            cures: vec![to],
        }),
    }
}

/// Services that have nothing to do with the proxy, but whose HTTP port made the listener.
///
/// A Service without an address keeps a listener on every address when its port is TCP, so it is left out.
fn unrelated_ports(dump: &Dump, failures: &[&Failure<'_>]) -> Result<Option<Candidate>, Error> {
    let (cures, _, _) = addresses(failures);
    let Some(first) = failures.first() else { return Ok(None) };
    let origins = first.origins;
    let [service] = origins.list.as_slice() else { return Ok(None) };
    let same = failures.iter().all(|failure| failure.origins == origins);
    if !same || origins.total != 1 || origins.declared != Declared::Http || service.kind != "Service" {
        return Ok(None);
    }
    if !origin::has_address(dump, first.decision, service)? {
        return Ok(None);
    }
    let (Some(name), Some(namespace), Some(port)) =
        (service.name.as_deref(), service.namespace.as_deref(), service.port)
    else {
        return Ok(None);
    };
    Ok(Some(Candidate {
        title: format!("Service {namespace}/{name}: declare its unrelated port {port} as TCP"),
        apply: patch_service(namespace, name),
        manifest: Manifest::tcp_port(name, namespace, port),
        trade_off: format!(
            "{namespace}/{name} loses HTTP routing, retries and HTTP metrics in the whole mesh; the next HTTP service \
             on port {port} brings the fault back."
        ),
        edit: Edit { removed_listeners: listener_names(failures), ..Edit::default() },
        cures,
    }))
}

/// A Sidecar resource that hides the origins from the app's workload. Without a label to select it by, a Sidecar would
/// stand in the place of the namespace's own.
fn sidecar(dump: &Dump, failures: &[&Failure<'_>]) -> Option<Candidate> {
    let (cures, _, _) = addresses(failures);
    let namespace = app_namespace(dump)?;
    let label = dump.identity().label()?;
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
        title: format!("Sidecar: hide other namespaces' services from {}={} in {namespace}", label.0, label.1),
        apply: APPLY.to_owned(),
        manifest: Manifest::own_namespace_only(
            object_name("own-namespace", std::slice::from_ref(&label.1)),
            &namespace,
            label.clone(),
        ),
        trade_off: format!(
            "Pods with {}={} no longer see services of any other namespace but istio-system; add those they call to \
             egress.hosts. The namespace's own Sidecar no longer counts for them.",
            label.0, label.1
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
    // A rule in the client's namespace counts before one in the service's, and that before the mesh-wide one.
    let namespace = app_namespace(dump).or_else(|| service.and_then(|service| service.namespace.clone()));
    let Some(namespace) = namespace else { return Ok(None) };
    let edit = simulated_config::without_tls(cluster);
    let cost = "The CONNECT then travels to the proxy in plaintext, as the app sent it.";
    let existing = rule.and_then(|rule| Some((rule.namespace.as_deref()?, rule.name.as_deref()?)));
    Ok(Some(match existing.filter(|(own, _)| *own == namespace) {
        Some((_, name)) => Candidate {
            title: format!("DestinationRule {namespace}/{name}: no TLS to {host}"),
            apply: format!(
                "kubectl -n {namespace} patch destinationrule {name} --type merge --patch-file fix.yaml"
            ),
            manifest: Manifest::no_tls(name.to_owned(), namespace, host.to_owned()),
            trade_off: format!("The rule's other settings stay; its host becomes {host} alone. {cost}"),
            edit,
            cures: vec![failure.to],
        },
        None => Candidate {
            title: format!("DestinationRule: no TLS to {host} for clients in {namespace}"),
            apply: APPLY.to_owned(),
            manifest: Manifest::no_tls(
                object_name("no-tls", &[host.to_owned(), failure.to.port().to_string()]),
                namespace,
                host.to_owned(),
            ),
            trade_off: format!(
                "For this host it counts in place of the rule that sets TLS: repeat that rule's other settings. {cost}"
            ),
            edit,
            cures: vec![failure.to],
        },
    }))
}

fn app_namespace(dump: &Dump) -> Option<String> {
    dump.identity().namespace()
}
