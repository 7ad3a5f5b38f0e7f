//! Reads a cluster and its endpoints: which hosts Envoy dials for it, and whether it speaks TLS to them.

use serde_json::Value;

use super::json::Node;

/// envoy.config.cluster.v3.Cluster, with what the endpoint dump adds.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub hosts: Hosts,
    pub tls: Tls,
    /// `metadata.filter_metadata.istio.services`.
    pub services: Vec<ServiceRef>,
    /// `metadata.filter_metadata.istio.config`: the DestinationRule that shaped the cluster.
    pub made_from: Option<String>,
}

/// Whether there is a host to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// `ORIGINAL_DST`: the address that the app dialed.
    Dialed,
    Some,
    /// No host, or none that health checks leave: Envoy's flag UH.
    None,
    /// The dump does not say (EDS without `include_eds`, an aggregate, a custom discovery type).
    Unknown,
}

/// Whether Envoy wraps what it sends in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    No,
    Yes,
    /// Some of the hosts, or hosts that the dump does not show.
    Perhaps,
}

/// A service as istiod writes it into a cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRef {
    pub host: String,
    pub name: Option<String>,
    pub namespace: Option<String>,
}

struct Host<'a> {
    usable: bool,
    metadata: Node<'a>,
}

impl Cluster {
    /// From a cluster's entry and, if the dump has it, its endpoint list.
    pub(crate) fn read(cluster: &Value, endpoints: Option<&Value>) -> Self {
        let node = Node::of(cluster);
        let inline = node.field("load_assignment");
        let list = endpoints.map_or(inline, Node::of);
        let known = endpoints.is_some() || inline.exists();
        let hosts = hosts(list);
        let istio = node.field("metadata").field("filter_metadata").key("istio");
        Self {
            hosts: availability(node, &hosts, known),
            tls: tls(node, &hosts),
            services: istio.key("services").items().filter_map(ServiceRef::read).collect(),
            made_from: istio.key("config").text().map(str::to_owned),
        }
    }
}

impl ServiceRef {
    fn read(node: Node<'_>) -> Option<Self> {
        Some(Self {
            host: node.key("host").text()?.to_owned(),
            name: node.key("name").text().map(str::to_owned),
            namespace: node.key("namespace").text().map(str::to_owned),
        })
    }
}

fn hosts(list: Node<'_>) -> Vec<Host<'_>> {
    let endpoints =
        list.field("endpoints").items().flat_map(|locality| locality.field("lb_endpoints").items());
    endpoints.map(Host::read).collect()
}

impl<'a> Host<'a> {
    fn read(endpoint: Node<'a>) -> Self {
        let health = endpoint.field("health_status").str();
        Self {
            usable: !matches!(health, Some("UNHEALTHY" | "DRAINING" | "TIMEOUT")),
            metadata: endpoint.field("metadata").field("filter_metadata").key("envoy.transport_socket_match"),
        }
    }
}

/// Source: envoy `upstream/cluster_manager_impl.cc` `chooseHost` (no host: UH) and
/// `load_balancer_impl.cc` `LoadBalancerBase::isHostSetInPanic`.
fn availability(cluster: Node<'_>, hosts: &[Host<'_>], known: bool) -> Hosts {
    let discovery = cluster.field("type").str();
    if discovery == Some("ORIGINAL_DST") {
        return Hosts::Dialed;
    }
    if cluster.field("cluster_type").exists() || (!known && discovery == Some("EDS")) {
        return Hosts::Unknown;
    }
    if hosts.is_empty() {
        // A static cluster of an old configuration lists its `hosts`.
        let old = cluster.field("hosts").items().next().is_some();
        return if old { Hosts::Some } else { Hosts::None };
    }
    // With a panic threshold of zero, as istiod sets it, unhealthy hosts are never used; else they are, in panic.
    let threshold = cluster.field("common_lb_config").field("healthy_panic_threshold");
    let never_panics = threshold.exists() && threshold.field("value").number().unwrap_or(0.0) <= 0.0;
    if never_panics && !hosts.iter().any(|host| host.usable) { Hosts::None } else { Hosts::Some }
}

/// Source: envoy `upstream/transport_socket_match_impl.cc` `TransportSocketMatcherImpl::resolve`: the first entry
/// whose labels the endpoint's metadata has, else the cluster's own socket.
fn tls(cluster: Node<'_>, hosts: &[Host<'_>]) -> Tls {
    let own = is_tls(cluster.field("transport_socket")) || cluster.field("tls_context").exists();
    let matches = cluster.field("transport_socket_matches");
    if matches.items().next().is_none() {
        return if own { Tls::Yes } else { Tls::No };
    }
    let of_host = |metadata: Node<'_>| {
        let hit = matches.items().find(|entry| has_labels(metadata, entry.field("match")));
        hit.map_or(own, |entry| is_tls(entry.field("transport_socket")))
    };
    let usable: Vec<bool> =
        hosts.iter().filter(|host| host.usable).map(|host| of_host(host.metadata)).collect();
    match (usable.iter().all(|tls| *tls), usable.iter().any(|tls| *tls)) {
        (true, true) => Tls::Yes,
        (false, false) => Tls::No,
        // No host is known. An ORIGINAL_DST host has no metadata; others may have any.
        (true, false) if cluster.field("type").str() == Some("ORIGINAL_DST") => {
            if of_host(Node::none()) {
                Tls::Yes
            } else {
                Tls::No
            }
        }
        (true, false) | (false, true) => Tls::Perhaps,
    }
}

fn has_labels(metadata: Node<'_>, wanted: Node<'_>) -> bool {
    wanted
        .members()
        .is_none_or(|labels| labels.iter().all(|(name, value)| metadata.key(name).value() == Some(value)))
}

fn is_tls(socket: Node<'_>) -> bool {
    let extension = socket.extension();
    // Wrappers (proxy protocol, tap, the internal upstream) hold the real socket.
    let inner = extension.config.field("transport_socket");
    extension.message == "UpstreamTlsContext" || (inner.exists() && is_tls(inner))
}
