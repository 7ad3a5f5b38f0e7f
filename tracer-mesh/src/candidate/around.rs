//! Ways around the cause: another service's port, and the redirect.

use std::net::{IpAddr, SocketAddr};

use crate::Error;
use crate::candidate::cause::patch_service;
use crate::candidate::{Candidate, Failure, addresses};
use crate::dump::Dump;
use crate::manifest::Manifest;
use crate::origin::{self, Declared, Origin};
use crate::overlay::Edit;

/// A service that has nothing to do with the proxy, but whose HTTP port made the listener.
///
/// A Service without an address keeps a listener on every address when its port is TCP, so it is left out.
pub(super) fn unrelated_ports(dump: &Dump, failures: &[&Failure<'_>]) -> Result<Option<Candidate>, Error> {
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
    if has_other_taker(dump, port, service.host.as_deref().unwrap_or_default()) {
        return Ok(None);
    }
    let removed_listeners = failures.iter().filter_map(|failure| failure.decision.listener.clone()).collect();
    Ok(Some(Candidate {
        title: format!("Service {namespace}/{name}: declare its unrelated port {port} as TCP"),
        apply: patch_service(namespace, name),
        manifest: Manifest::tcp_port(name, namespace, port),
        risk: "another service loses HTTP routing and HTTP metrics",
        trade_off: format!(
            "{namespace}/{name} loses HTTP routing, retries and HTTP metrics in the whole mesh; the next HTTP service \
             on port {port} brings the fault back."
        ),
        edit: Edit { removed_listeners, ..Edit::default() },
        cures,
        unless: None,
    }))
}

/// The dialed addresses are pods of the very Service whose HTTP port made the listener.
pub(super) fn own_service(
    dump: &Dump,
    failures: &[&Failure<'_>],
    service: &Origin,
) -> Result<Option<Candidate>, Error> {
    let (Some(namespace), Some(name), Some(port)) = (&service.namespace, &service.name, service.port) else {
        return Ok(None);
    };
    Ok(unrelated_ports(dump, failures)?.map(|candidate| Candidate {
        title: format!("Service {namespace}/{name}: declare port {port} as TCP"),
        risk: "the port loses HTTP routing and HTTP metrics",
        trade_off: "The proxy's port loses HTTP routing and HTTP metrics for every client, which a forward proxy has no \
                    use for. If the proxy's pods have a sidecar, this mends its inbound side too."
            .to_owned(),
        ..candidate
    }))
}

/// Whether another service without an address of its own has the port as TCP: with the HTTP listener gone, it takes the port of
/// every address, also of the service itself and of its pods.
fn has_other_taker(dump: &Dump, port: u16, host: &str) -> bool {
    let routes = dump.route_text(&port.to_string()).unwrap_or_default();
    for name in dump.cluster_names() {
        let Some((other_port, other)) = origin::outbound_cluster(name) else { continue };
        if other_port != port || other == host || routes.contains(&format!("\"{other}:{port}\"")) {
            continue;
        }
        let quoted = format!("\"{name}\"");
        if !dump.listener_texts().any(|text| text.contains(&quoted) && is_at_own_address(text)) {
            return true;
        }
    }
    false
}

/// Whether a listener is neither that of every address, nor at an address that istiod allocates, which exists in the answers of
/// the sidecar's name server alone:
/// <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/#address-auto-allocation>
fn is_at_own_address(listener: &str) -> bool {
    !["\"0.0.0.0\"", "\"::\"", "\"240.240.", "\"2001:2::"].iter().any(|other| listener.contains(other))
}

/// The pod's annotation leaves the addresses out of the redirect. What it has of addresses already is kept.
pub(super) fn exclude(dump: &Dump, cures: Vec<SocketAddr>) -> Candidate {
    let ips: Vec<IpAddr> = cures.iter().map(SocketAddr::ip).collect();
    let identity = dump.identity();
    let existing = identity.annotation("excludeOutboundIPRanges").unwrap_or_default();
    let kept = if existing.is_empty() {
        "An annotation of this name that the dump does not show has to be kept."
    } else {
        "The ranges that the annotation has already are kept."
    };
    let workload = identity.workload();
    let apply = match &workload {
        Some((namespace, kind, name)) => {
            format!("kubectl -n {namespace} patch {kind} {name} --patch-file fix.yaml")
        }
        None => "kubectl patch deployment NAME --patch-file fix.yaml".to_owned(),
    };
    Candidate {
        title: "Pod annotation: leave the proxy's addresses out of the redirect".to_owned(),
        apply,
        manifest: Manifest::exclude(&existing, &ips),
        risk: "pods restart; no telemetry and no policy for these connections",
        trade_off: format!(
            "The pods restart. Envoy no longer sees these connections: no telemetry, and no REGISTRY_ONLY enforcement for \
             them. {kept}"
        ),
        edit: Edit { bypassed: cures.clone(), ..Edit::default() },
        cures,
        unless: None,
    }
}
