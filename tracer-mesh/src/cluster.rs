//! Reads a cluster and its endpoints: which hosts Envoy dials for it, and whether it speaks TLS to them.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::json::Node;
use super::known_fields;
use super::listener::{Socket, wrapped_socket};

/// envoy.config.cluster.v3.Cluster, with the endpoints that the endpoint dump adds.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Cluster {
    pub hosts: Hosts,
    pub tls: Tls,
    /// The addresses of its hosts, where the dump has them; a host without an address is left out.
    pub addresses: Vec<SocketAddr>,
    /// `ORIGINAL_DST`: hosts are the dialed addresses.
    pub dials_original: bool,
    /// `upstream_port_override`: the port that is dialed in place of the app's.
    pub port_override: Option<u16>,
    /// An internal listener of this Envoy that its hosts are.
    pub internal_listener: Option<String>,
    /// Names that Envoy resolves to find its hosts.
    pub names: Vec<String>,
    /// Envoy sends a PROXY protocol header before the app's bytes.
    pub sends_proxy_header: bool,
    /// `circuit_breakers`: how many connections it allows at once.
    pub max_connections: Option<i64>,
    /// `circuit_breakers`: it allows no request at all.
    pub allows_no_request: bool,
    /// istiod chooses TLS for each host by its label (`transport_socket_matches`), so a host without a sidecar gets none.
    pub is_auto_tls: bool,
    /// A host has a sidecar: istiod labels its endpoint `tlsMode: istio`.
    pub has_mesh_host: bool,
    /// `metadata.filter_metadata.istio.services`.
    pub services: Vec<ServiceRef>,
    /// `metadata.filter_metadata.istio.config`: the DestinationRule that shaped the cluster.
    pub made_from: Option<String>,
    /// Fields that are set and not understood.
    pub unread: Vec<String>,
}

/// Whether there is a host to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// `ORIGINAL_DST`: the address that the app dialed.
    Dialed,
    Some,
    /// No host, or none that health checks leave: Envoy's flag UH.
    None,
    /// No host has the labels that the connection asks for: Envoy's flag UH.
    NoneInSubset,
    /// The dump does not say (EDS without `include_eds`, an aggregate, a custom discovery type).
    Unknown,
}

/// Whether Envoy wraps what it sends in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    No,
    /// The mesh's own mTLS: the proxy's sidecar unwraps it, and the proxy gets the app's bytes.
    Mesh,
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
    address: Node<'a>,
    metadata: Node<'a>,
}

impl Cluster {
    /// From a cluster's entry and, if the dump has it, its endpoint list. `subset` holds the labels that the connection
    /// asks for (`metadata_match`).
    pub(crate) fn read(cluster: &Value, endpoints: Option<&Value>, subset: Option<&Value>) -> Self {
        let node = Node::of(cluster);
        let inline = node.field("load_assignment");
        let list = endpoints.map_or(inline, Node::of);
        let known = endpoints.is_some() || inline.exists();
        let mut hosts = hosts(list);
        let mut unread = known_fields::CLUSTER.unread(node);
        if let Some(endpoints) = endpoints {
            unread.append(&mut known_fields::LOAD_ASSIGNMENT.unread(Node::of(endpoints)));
        }
        unusual(node, &mut unread);
        let had_hosts = !hosts.is_empty();
        if node.field("lb_subset_config").exists() {
            keep_subset(&mut hosts, node.field("lb_subset_config"), subset, &mut unread);
        }
        let available = if had_hosts && hosts.is_empty() {
            Hosts::NoneInSubset
        } else {
            availability(node, &hosts, known)
        };
        // In panic Envoy uses all of them (LoadBalancerBase::isHostSetInPanic).
        if available == Hosts::Some && !hosts.iter().any(|host| host.usable) {
            for host in &mut hosts {
                host.usable = true;
            }
        }
        let original = node.field("original_dst_lb_config");
        for field in ["use_http_header", "http_header_name", "metadata_key"] {
            if original.field(field).exists() {
                unread
                    .push(format!("the cluster takes the address from {field}, which is not evaluated here"));
            }
        }
        let internal = hosts.iter().find_map(|host| {
            host.address
                .field("envoy_internal_address")
                .field("server_listener_name")
                .text()
                .map(str::to_owned)
        });
        let thresholds = node.field("circuit_breakers").field("thresholds");
        let threshold = |name: &str| {
            thresholds
                .items()
                .filter(|threshold| matches!(threshold.field("priority").str(), None | Some("DEFAULT")))
                .find_map(|threshold| threshold.field(name).integer())
        };
        let istio = node.field("metadata").field("filter_metadata").key("istio");
        Self {
            hosts: available,
            tls: tls(node, &hosts, &mut unread),
            addresses: hosts.iter().filter(|host| host.usable).filter_map(Host::socket_address).collect(),
            dials_original: node.field("type").str() == Some("ORIGINAL_DST"),
            port_override: original.field("upstream_port_override").port(),
            internal_listener: internal,
            sends_proxy_header: sends_proxy_header(node.field("transport_socket")),
            names: hosts.iter().filter(|host| host.usable).filter_map(Host::name).collect(),
            max_connections: threshold("max_connections"),
            allows_no_request: threshold("max_requests") == Some(0)
                || threshold("max_pending_requests") == Some(0),
            is_auto_tls: node.field("transport_socket_matches").items().next().is_some(),
            has_mesh_host: hosts.iter().any(Host::is_in_mesh),
            services: istio.key("services").items().filter_map(ServiceRef::read).collect(),
            made_from: istio.key("config").text().map(str::to_owned),
            unread,
        }
    }
}

impl Cluster {
    /// The addresses that a connection to `to` can be dialed to.
    pub(crate) fn hosts_of(&self, to: SocketAddr) -> Vec<String> {
        if self.dials_original {
            return vec![SocketAddr::new(to.ip(), self.port_override.unwrap_or(to.port())).to_string()];
        }
        self.addresses.iter().map(ToString::to_string).chain(self.names.iter().cloned()).collect()
    }
}

/// Leaves the hosts that a connection may use, of a cluster with subsets.
///
/// Source: envoy `source/extensions/load_balancing_policies/subset/subset_lb.cc` `SubsetLoadBalancer::chooseHost`: the
/// subset of the labels that are asked for, where there is one; else what the fallback policy says.
fn keep_subset(
    hosts: &mut Vec<Host<'_>>,
    config: Node<'_>,
    wanted: Option<&Value>,
    unread: &mut Vec<String>,
) {
    let wanted = wanted.and_then(Value::as_object).cloned().unwrap_or_default();
    let has_selector = config.field("subset_selectors").items().any(|selector| {
        let keys = selector.field("keys").texts();
        keys.len() == wanted.len() && keys.iter().all(|key| wanted.contains_key(key))
    });
    let fits = |host: &Host<'_>| {
        let own = host.lb_labels();
        wanted.iter().all(|(name, value)| own.key(name).value() == Some(value))
    };
    if has_selector && !wanted.is_empty() && hosts.iter().any(fits) {
        hosts.retain(fits);
        return;
    }
    match config.field("fallback_policy").str().unwrap_or("NO_FALLBACK") {
        "NO_FALLBACK" => hosts.clear(),
        "ANY_ENDPOINT" => {}
        _ => unread.push("the cluster falls back to a subset, which is not evaluated here".to_owned()),
    }
}

/// `ProxyProtocolUpstreamTransport`, in any wrapper.
fn sends_proxy_header(socket: Node<'_>) -> bool {
    let extension = socket.extension();
    extension.message == "ProxyProtocolUpstreamTransport"
        || wrapped_socket(&extension).is_some_and(sends_proxy_header)
}

/// What of a cluster decides by its value, and has one that is not understood.
fn unusual(node: Node<'_>, unread: &mut Vec<String>) {
    let mut unread = |what: String| unread.push(format!("the cluster {what}, which is not evaluated here"));
    // Istio's inbound clusters dial from 127.0.0.6 (pilot/pkg/networking/core/cluster.go).
    let from = node.field("upstream_bind_config").field("source_address").field("address").str();
    if let Some(from) = from.filter(|from| !matches!(*from, "127.0.0.6" | "::6")) {
        unread(format!("dials from {from} (upstream_bind_config)"));
    }
    let policies = node.field("load_balancing_policy").field("policies").items();
    for name in policies.filter_map(|policy| policy.field("typed_extension_config").field("name").str()) {
        let last = name.rsplit('.').next().unwrap_or_default();
        let known = ["round_robin", "least_request", "random", "ring_hash", "maglev", "wrr_locality"];
        if !known.contains(&last) && !matches!(last, "cluster_provided" | "client_side_weighted_round_robin")
        {
            unread(format!("balances its load by {name} (load_balancing_policy)"));
        }
    }
    for name in node.field("filters").items().filter_map(|filter| filter.field("name").str()) {
        if !name.ends_with("metadata_exchange") {
            unread(format!("has the filter {name} (filters)"));
        }
    }
    let known = ["STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"];
    if let Some(kind) = node.field("type").str().filter(|kind| !known.contains(kind)) {
        unread(format!("has the type {kind}"));
    }
}

/// Whether `ip` is an endpoint of the list, with a sidecar.
pub(crate) fn has_mesh_host(list: Node<'_>, ip: IpAddr) -> bool {
    hosts(list).iter().any(|host| {
        host.is_in_mesh() && host.socket_address().is_some_and(|address| address.ip() == ip.to_canonical())
    })
}

/// Whether `ip` is an endpoint of the list.
pub(crate) fn has_host(list: Node<'_>, ip: IpAddr) -> bool {
    let is_it =
        |host: &Host<'_>| host.socket_address().is_some_and(|address| address.ip() == ip.to_canonical());
    hosts(list).iter().any(is_it)
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
            address: endpoint.field("endpoint").field("address"),
            metadata: endpoint.field("metadata").field("filter_metadata"),
        }
    }

    fn socket_labels(&self) -> Node<'a> {
        self.metadata.key("envoy.transport_socket_match")
    }

    fn lb_labels(&self) -> Node<'a> {
        self.metadata.key("envoy.lb")
    }

    fn socket_address(&self) -> Option<SocketAddr> {
        let socket = self.address.field("socket_address");
        let ip: IpAddr = socket.field("address").str()?.parse().ok()?;
        Some(SocketAddr::new(ip.to_canonical(), socket.field("port_value").port()?))
    }

    /// `name:port`, where the host is not an address.
    fn name(&self) -> Option<String> {
        let socket = self.address.field("socket_address");
        let name = socket.field("address").text().filter(|name| name.parse::<IpAddr>().is_err())?;
        Some(format!("{name}:{}", socket.field("port_value").port()?))
    }

    /// istiod labels the endpoints whose pods have a sidecar.
    ///
    /// Source: istio `pilot/pkg/networking/util/util.go` `AppendLbEndpointMetadata`.
    fn is_in_mesh(&self) -> bool {
        self.socket_labels().key("tlsMode").str() == Some("istio")
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
fn tls(cluster: Node<'_>, hosts: &[Host<'_>], unread: &mut Vec<String>) -> Tls {
    let own = if cluster.field("tls_context").exists() {
        of_context(cluster.field("tls_context"))
    } else {
        of_socket(cluster.field("transport_socket"), unread)
    };
    let matches = cluster.field("transport_socket_matches");
    if matches.items().next().is_none() {
        return own;
    }
    let mut of_host = |metadata: Node<'_>| {
        let hit = matches.items().find(|entry| has_labels(metadata, entry.field("match")));
        hit.map_or(own, |entry| of_socket(entry.field("transport_socket"), unread))
    };
    let mut usable: Vec<Tls> =
        hosts.iter().filter(|host| host.usable).map(|host| of_host(host.socket_labels())).collect();
    usable.dedup();
    match usable.as_slice() {
        [tls] => *tls,
        // Both reach the proxy as the app's bytes.
        [_, ..] if usable.iter().all(|tls| matches!(tls, Tls::No | Tls::Mesh)) => Tls::Mesh,
        // No host is known. An ORIGINAL_DST host has no metadata; others may have any.
        [] if cluster.field("type").str() == Some("ORIGINAL_DST") => of_host(Node::none()),
        [] => {
            let kinds: Vec<Tls> =
                matches.items().map(|entry| of_socket(entry.field("transport_socket"), unread)).collect();
            if kinds.iter().all(|kind| matches!(kind, Tls::No | Tls::Mesh)) {
                Tls::Mesh
            } else {
                Tls::Perhaps
            }
        }
        _ => Tls::Perhaps,
    }
}

fn has_labels(metadata: Node<'_>, wanted: Node<'_>) -> bool {
    wanted
        .members()
        .is_none_or(|labels| labels.iter().all(|(name, value)| metadata.key(name).value() == Some(value)))
}

fn of_socket(node: Node<'_>, unread: &mut Vec<String>) -> Tls {
    match Socket::read(node) {
        Socket::Plaintext => Tls::No,
        Socket::Tls => of_context(innermost(node)),
        Socket::Other(name) => {
            unread.push(format!("the cluster's transport socket {name} is not evaluated here"));
            Tls::Perhaps
        }
    }
}

/// The `UpstreamTlsContext` inside all wrappers.
fn innermost(socket: Node<'_>) -> Node<'_> {
    let extension = socket.extension();
    let config = extension.config;
    wrapped_socket(&extension).map_or(config, innermost)
}

/// The mesh's own mTLS is told by what istiod alone writes: an ALPN `istio…`, or an SNI `outbound_.PORT_._.HOST`.
///
/// Source: istio `pilot/pkg/networking/core/cluster_tls.go` `buildUpstreamClusterTLSContext`, `util.ALPNInMesh`;
/// pilot/pkg/model `BuildDNSSrvSubsetKey`.
fn of_context(context: Node<'_>) -> Tls {
    let alpn = context.field("common_tls_context").field("alpn_protocols").texts();
    let sni = context.field("sni").str().unwrap_or_default();
    let is_mesh = alpn.iter().any(|protocol| protocol == "istio" || protocol.starts_with("istio-"))
        || sni.starts_with("outbound_.");
    if is_mesh { Tls::Mesh } else { Tls::Yes }
}
