//! Repairs of the cause, where it is an object of the proxy's own: the protocol of its port, and TLS towards it.

use std::net::SocketAddr;

use crate::candidate::{APPLY, Candidate, Failure, app_namespace, sidecar_of};
use crate::cluster::Cluster;
use crate::dump::Dump;
use crate::manifest::{Manifest, TlsMode, object_name};
use crate::origin::{self, Origin};
use crate::overlay::Edit;
use crate::{Error, simulated_config};

pub(super) fn patch_service(namespace: &str, name: &str) -> String {
    format!("kubectl -n {namespace} patch service {name} --patch-file fix.yaml")
}

/// Opens the ServiceEntry of a host. Its own name is in no dump, and a patch would replace its lists as a whole.
pub(super) fn edit_entry(namespace: Option<&str>, host: &str) -> String {
    let (scope, in_namespace) = match namespace {
        Some(namespace) => (format!("-n {namespace}"), format!("-n {namespace}")),
        None => ("-A".to_owned(), "-n NAMESPACE".to_owned()),
    };
    format!(
        "kubectl get serviceentry {scope} | grep -F '{host}' shows its name; then kubectl {in_namespace} edit serviceentry \
         NAME, so that it says"
    )
}

/// The dialed address is a Service of the mesh: its own port has to say TCP.
pub(super) fn own_port(service: &Origin, to: SocketAddr) -> Option<Candidate> {
    let (host, port) = (service.host.as_deref()?, service.port?);
    let edit = simulated_config::tcp_port(to, &format!("outbound|{port}||{host}"));
    Some(match (service.kind, service.name.as_deref(), service.namespace.as_deref()) {
        ("Service", Some(name), Some(namespace)) => Candidate {
            title: format!("Service {namespace}/{name}: declare port {port} as TCP"),
            apply: patch_service(namespace, name),
            manifest: Manifest::tcp_port(name, namespace, port),
            risk: "the port loses HTTP routing and HTTP metrics",
            trade_off: "The proxy's port loses HTTP routing and HTTP metrics for every client, which a forward proxy \
                        has no use for. If the proxy's pods have a sidecar, this mends its inbound side too."
                .to_owned(),
            edit,
            cures: vec![to],
            unless: None,
        },
        _ => Candidate {
            title: format!("ServiceEntry for {host}: declare port {port} as TCP"),
            apply: edit_entry(service.namespace.as_deref(), host),
            manifest: Manifest::entry_port(port),
            risk: "the port loses HTTP routing and HTTP metrics",
            trade_off: "A second ServiceEntry beside the first does not help: the one that declares the port must \
                        change. Only the protocol of its port does: its addresses, resolution and endpoints stay."
                .to_owned(),
            edit,
            cures: vec![to],
            unless: None,
        },
    })
}

/// The one Service behind the listener, where it is headless: istiod makes an `ORIGINAL_DST` cluster for it, and one
/// listener for each pod once its port is TCP.
///
/// Source: istio pilot/pkg/networking/core/listener.go `buildSidecarOutboundListeners` (headless services).
pub(super) fn headless_service(dump: &Dump, failure: &Failure<'_>) -> Result<Option<Origin>, Error> {
    let [service] = failure.origins.list.as_slice() else { return Ok(None) };
    if failure.origins.total != 1 || service.kind != "Service" {
        return Ok(None);
    }
    let (Some(host), Some(port)) = (&service.host, service.port) else { return Ok(None) };
    let cluster = dump.cluster_entry(&format!("outbound|{port}||{host}"))?;
    let is_headless = cluster.is_some_and(|value| Cluster::read(&value, None, None).dials_original);
    Ok(is_headless.then(|| service.clone()))
}

pub(super) fn headless_port(service: &Origin, failure: &Failure<'_>) -> Option<Candidate> {
    let (host, port) = (service.host.as_deref()?, service.port?);
    let (name, namespace) = (service.name.as_deref()?, service.namespace.as_deref()?);
    Some(Candidate {
        title: format!("Service {namespace}/{name}: declare port {port} as TCP"),
        apply: patch_service(namespace, name),
        manifest: Manifest::tcp_port(name, namespace, port),
        risk: "the port loses HTTP routing and HTTP metrics",
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
        unless: None,
    })
}

/// A DestinationRule makes Envoy speak TLS to the proxy.
///
/// A rule for the host alone, without a word on TLS, leaves the choice to the mesh: plaintext to a host without a sidecar,
/// the mesh's mTLS to one that has it. The mesh's mTLS is never switched off.
pub(super) fn tls(dump: &Dump, failure: &Failure<'_>) -> Result<Option<Candidate>, Error> {
    let Some(cluster_name) = failure.decision.cluster.as_deref() else { return Ok(None) };
    let Some((_, host)) = origin::outbound_cluster(cluster_name) else { return Ok(None) };
    let Some(value) = dump.cluster_entry(cluster_name)? else { return Ok(None) };
    let rule = failure.origins.list.iter().find(|origin| origin.kind == "DestinationRule");
    let service = failure.origins.list.iter().find(|origin| origin.host.is_some());
    // A rule in the client's namespace counts before one in the service's, and that before the mesh-wide one.
    let namespace = app_namespace(dump).or_else(|| service.and_then(|service| service.namespace.clone()));
    let Some(namespace) = namespace else { return Ok(None) };
    let endpoints = dump.endpoints_entry(cluster_name)?;
    let cluster = Cluster::read(&value, endpoints.as_ref(), None);
    let mut is_member = cluster.has_mesh_host;
    for address in cluster.addresses.iter().take(3) {
        is_member |= sidecar_of(dump, address.ip())?.is_some();
    }
    let path = cluster.made_from.clone().unwrap_or_default();
    let edit = simulated_config::without_tls(value);
    let cost = if is_member {
        "The bytes then travel to the proxy's sidecar in the mesh's own mTLS."
    } else {
        "The CONNECT then travels to the proxy in plaintext, as the app sent it."
    };
    let existing = rule.and_then(|rule| Some((rule.namespace.as_deref()?, rule.name.as_deref()?)));
    // A rule that other hosts share stays as it is: a rule for one host counts before a wider one.
    let own = existing.filter(|(own, _)| *own == namespace && !dump.is_shared_rule(&path, host));
    Ok(Some(match own {
        Some((_, name)) => {
            let mode = if is_member { TlsMode::IstioMutual } else { TlsMode::Disable };
            Candidate {
                title: format!("DestinationRule {namespace}/{name}: {} to {host}", mode.words()),
                apply: format!(
                    "kubectl -n {namespace} patch destinationrule {name} --type merge --patch-file fix.yaml"
                ),
                manifest: Manifest::tls_mode(mode),
                risk: "every client of the rule changes",
                trade_off: format!(
                    "The rule's other settings stay. Where it sets TLS for the port (portLevelSettings), change it there. {cost}"
                ),
                edit,
                cures: vec![failure.to],
                unless: None,
            }
        }
        None => Candidate {
            title: format!("DestinationRule: leave TLS to {host} to the mesh, for clients in {namespace}"),
            apply: APPLY.to_owned(),
            manifest: Manifest::auto_tls(
                object_name("auto-tls", &[host.to_owned(), failure.to.port().to_string()]),
                namespace,
                host.to_owned(),
            ),
            risk: "the other rule's settings no longer count for this host",
            trade_off: format!(
                "For this host it counts in place of the rule that sets TLS: repeat that rule's other settings. {cost}"
            ),
            edit,
            cures: vec![failure.to],
            unless: None,
        },
    }))
}
