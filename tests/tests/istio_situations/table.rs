//! The situations as data: which objects there are, and who dials what. Nothing here says what comes of it.

use serde_json::{Value, json};

/// The proxy's port, and that of the objects that get in its way.
pub const PORT: u16 = 3128;

/// One situation.
#[derive(Debug, Clone)]
pub struct Situation {
    /// Its name, which is unique.
    pub name: String,
    /// All objects that there are.
    pub objects: Vec<Value>,
    /// Who dials.
    pub client: Client,
    /// Where to.
    pub to: To,
    /// What the app sends first.
    pub request: Request,
}

/// The pods that dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A default sidecar.
    Default,
    /// Four worker threads.
    FourWorkers,
    /// The sidecar's user is one of those that `OpenShift` assigns.
    OpenShift,
    /// TPROXY for inbound connections.
    Tproxy,
    /// Rules in nftables' own language.
    Nftables,
    /// `excludeOutboundPorts: 3128`.
    PortExcluded,
    /// `excludeOutboundIPRanges` with squid's address.
    AddressExcluded,
    /// `includeOutboundIPRanges` with the Services' addresses only.
    ServicesIncluded,
    /// No sidecar.
    NoSidecar,
}

/// What the app dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// squid's pod, which has no sidecar.
    Squid,
    /// The pod of the squid that has a sidecar.
    MeshSquid,
    /// Squid's pod, on a port where nothing listens.
    ClosedPort,
    /// This cluster IP or external address.
    Address([u8; 4]),
}

/// The app's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `CONNECT` as curl writes it.
    Connect,
    /// `CONNECT` in HTTP/1.0.
    Connect10,
    /// `CONNECT` to a host that squid refuses.
    ConnectDenied,
    /// `GET http://…`.
    AbsoluteForm,
}

/// Addresses of pods, for objects that name them.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// squid's.
    pub squid: String,
    /// The other team's web server's.
    pub web: String,
}

/// An address of a Service, which the API server takes as it is.
const VIP: [u8; 4] = [10, 96, 20, 1];
/// An address that only a ServiceEntry knows.
const EXTERNAL: [u8; 4] = [240, 1, 1, 1];

/// Ways to declare a port's protocol: `(name, appProtocol)`.
const PROTOCOLS: &[(&str, Option<&str>)] = &[
    ("http", None),
    ("http-web", None),
    ("http2", None),
    ("grpc", None),
    ("tcp", None),
    ("tls", None),
    ("https", None),
    ("mongo", None),
    ("redis", None),
    ("mysql", None),
    ("web", None),
    ("web", Some("http")),
    ("web", Some("https")),
    ("web", Some("tcp")),
    ("web", Some("kubernetes.io/h2c")),
    ("web", Some("kubernetes.io/ws")),
    ("http", Some("tcp")),
];

/// Kinds of Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    Headless,
    ExternalName,
}

/// All situations, in the order in which they are played.
pub fn all(addresses: &Addresses) -> Vec<Situation> {
    let mut table = Vec::new();
    undeclared(&mut table);
    declared(&mut table);
    service_entries(&mut table, addresses);
    sidecars(&mut table, addresses);
    upgrades(&mut table);
    destination_rules(&mut table, addresses);
    both_injected(&mut table);
    dead_endpoints(&mut table, addresses);
    clients(&mut table);
    table
}

fn add(table: &mut Vec<Situation>, name: &str, to: To, objects: Vec<Value>) {
    add_with(table, name, Client::Default, to, Request::Connect, objects);
}

fn add_with(
    table: &mut Vec<Situation>,
    name: &str,
    client: Client,
    to: To,
    request: Request,
    objects: Vec<Value>,
) {
    table.push(Situation { name: name.to_owned(), objects, client, to, request });
}

/// The proxy's address belongs to no object; another team's Service has the port.
fn undeclared(table: &mut Vec<Situation>) {
    add(table, "undeclared", To::Squid, vec![]);
    add_with(table, "undeclared_denied", Client::Default, To::Squid, Request::ConnectDenied, vec![]);
    add(table, "undeclared_closed_port", To::ClosedPort, vec![]);
    for (name, app) in PROTOCOLS {
        for kind in [Kind::ClusterIp, Kind::Headless, Kind::ExternalName] {
            let title = format!("undeclared_beside_{}_{}", kind.name(), protocol_title(name, *app));
            add(table, &title, To::Squid, vec![other(kind, name, *app)]);
        }
    }
    for (name, request) in [
        ("http10", Request::Connect10),
        ("denied", Request::ConnectDenied),
        ("absolute_form", Request::AbsoluteForm),
    ] {
        for protocol in ["http", "web", "tcp"] {
            let objects = vec![other(Kind::ClusterIp, protocol, None)];
            let title = format!("undeclared_beside_{protocol}_{name}");
            add_with(table, &title, Client::Default, To::Squid, request, objects);
        }
    }
    add_with(table, "undeclared_absolute_form", Client::Default, To::Squid, Request::AbsoluteForm, vec![]);
    // What is remembered of the address must not mislead: it is reached, then broken, then reached again.
    for turn in 1..=3 {
        add(table, &format!("again_{turn}_undeclared"), To::Squid, vec![]);
        add(
            table,
            &format!("again_{turn}_beside_http"),
            To::Squid,
            vec![other(Kind::ClusterIp, "http", None)],
        );
    }
}

/// The proxy is a Service, dialed by its cluster IP or by its pod's address.
fn declared(table: &mut Vec<Situation>) {
    for (name, app) in PROTOCOLS {
        let title = protocol_title(name, *app);
        let service = |kind| service("egress", "squid", kind, name, *app, Some("squid"));
        add(table, &format!("declared_vip_{title}"), To::Address(VIP), vec![service(Kind::ClusterIp)]);
        add(table, &format!("declared_pod_{title}"), To::Squid, vec![service(Kind::ClusterIp)]);
        add(table, &format!("declared_headless_{title}"), To::Squid, vec![service(Kind::Headless)]);
    }
    for name in ["tcp", "http", "web"] {
        let squid = |kind| service("egress", "squid", kind, name, None, Some("squid"));
        let http = || other(Kind::ClusterIp, "http", None);
        add(
            table,
            &format!("declared_vip_{name}_beside_http"),
            To::Address(VIP),
            vec![squid(Kind::ClusterIp), http()],
        );
        add(
            table,
            &format!("declared_pod_{name}_beside_http"),
            To::Squid,
            vec![squid(Kind::ClusterIp), http()],
        );
        add(
            table,
            &format!("declared_headless_{name}_beside_http"),
            To::Squid,
            vec![squid(Kind::Headless), http()],
        );
        // Over HTTP, what Envoy does not know goes to the cluster IP itself, which nothing answers here.
        let requests: &[(Request, &str)] = match name {
            "tcp" => &[(Request::Connect10, "http10"), (Request::ConnectDenied, "denied")],
            _ => &[(Request::ConnectDenied, "denied")],
        };
        for (request, title) in requests {
            let name = format!("declared_vip_{name}_{title}");
            add_with(table, &name, Client::Default, To::Address(VIP), *request, vec![squid(Kind::ClusterIp)]);
        }
    }
}

/// `ServiceEntry` objects: the app's team's, and other teams'.
fn service_entries(table: &mut Vec<Situation>, addresses: &Addresses) {
    let squid = addresses.squid.as_str();
    for protocol in ["TCP", "HTTP", "TLS"] {
        for resolution in ["NONE", "STATIC", "DNS"] {
            for (title, with) in [("addresses", true), ("hosts_only", false)] {
                for (beside, http) in [("", false), ("_beside_http", true)] {
                    // A plain name resolves nowhere here; with DNS, the endpoint is an address.
                    let endpoints: &[&str] = if resolution == "NONE" { &[] } else { &[squid] };
                    let at: &[&str] = if with { &[squid] } else { &[] };
                    let mut objects =
                        vec![entry("shop", "proxy", protocol, resolution, at, endpoints, &["*"])];
                    if http {
                        objects.push(other(Kind::ClusterIp, "http", None));
                    }
                    let name = format!(
                        "entry_{}_{}_{title}{beside}",
                        protocol.to_lowercase(),
                        resolution.to_lowercase()
                    );
                    add(table, &name, To::Squid, objects);
                }
            }
        }
    }
    for (title, namespace, export) in [
        ("own_namespace_only", "shop", "."),
        ("other_namespace_only", "other", "."),
        ("other_namespace_to_all", "other", "*"),
        ("named_namespace", "other", "shop"),
    ] {
        let objects = vec![
            entry(namespace, "proxy", "TCP", "NONE", &[squid], &[], &[export]),
            other(Kind::ClusterIp, "http", None),
        ];
        add(table, &format!("entry_exported_to_{title}"), To::Squid, objects);
    }
    let range = "10.233.0.0/16";
    add(
        table,
        "entry_tcp_range",
        To::Squid,
        vec![entry("shop", "proxy", "TCP", "NONE", &[range], &[], &["*"])],
    );
    add(
        table,
        "entry_http_range",
        To::Squid,
        vec![entry("shop", "proxy", "HTTP", "NONE", &[range], &[], &["*"])],
    );
    let vip = EXTERNAL.map(|byte| byte.to_string()).join(".");
    for protocol in ["TCP", "HTTP"] {
        let objects = vec![entry("shop", "proxy", protocol, "STATIC", &[&vip], &[squid], &["*"])];
        add(
            table,
            &format!("entry_virtual_address_{}", protocol.to_lowercase()),
            To::Address(EXTERNAL),
            objects,
        );
    }
    // Other teams' entries without addresses take the whole port.
    let web = addresses.web.as_str();
    for protocol in ["TCP", "HTTP", "TLS"] {
        let objects = vec![entry("other", "db", protocol, "STATIC", &[], &[web], &["*"])];
        add(table, &format!("another_entry_static_{}", protocol.to_lowercase()), To::Squid, objects);
    }
}

/// Sidecar resources: scopes, egress listeners, `REGISTRY_ONLY`.
fn sidecars(table: &mut Vec<Situation>, addresses: &Addresses) {
    let http = || other(Kind::ClusterIp, "http", None);
    let tcp_squid = || service("egress", "squid", Kind::ClusterIp, "tcp", None, Some("squid"));
    let scope = |hosts: &[&str]| sidecar(json!({"egress": [{"hosts": hosts}]}));
    for (title, hosts) in [
        ("own", &["./*"][..]),
        ("own_and_system", &["./*", "istio-system/*"]),
        ("proxys", &["egress/*"]),
        ("others", &["other/*"]),
        ("all", &["*/*"]),
    ] {
        add(table, &format!("scope_{title}_undeclared_beside_http"), To::Squid, vec![scope(hosts), http()]);
        add(table, &format!("scope_{title}_vip_tcp"), To::Address(VIP), vec![scope(hosts), tcp_squid()]);
    }
    let only = |hosts: &[&str]| {
        sidecar(json!({"egress": [{"hosts": hosts}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}))
    };
    add(table, "registry_only_undeclared", To::Squid, vec![only(&["*/*"])]);
    add(table, "registry_only_undeclared_beside_http", To::Squid, vec![only(&["*/*"]), http()]);
    add(table, "registry_only_vip_tcp", To::Address(VIP), vec![only(&["*/*"]), tcp_squid()]);
    let entry = entry("shop", "proxy", "TCP", "NONE", &[&addresses.squid], &[], &["*"]);
    add(table, "registry_only_entry", To::Squid, vec![only(&["*/*"]), entry]);
    add(table, "registry_only_undeclared_again", To::Squid, vec![only(&["*/*"])]);
    for protocol in ["TCP", "HTTP"] {
        let listener =
            json!({"port": {"number": PORT, "protocol": protocol, "name": "proxy"}, "hosts": ["*/*"]});
        let objects = vec![sidecar(json!({"egress": [listener, {"hosts": ["*/*"]}]})), tcp_squid()];
        add(table, &format!("egress_listener_{}", protocol.to_lowercase()), To::Squid, objects.clone());
        add(table, &format!("egress_listener_{}_vip", protocol.to_lowercase()), To::Address(VIP), objects);
    }
}

/// HTTP listeners that know CONNECT.
fn upgrades(table: &mut Vec<Situation>) {
    let squid = || service("egress", "squid", Kind::ClusterIp, "http", None, Some("squid"));
    let patch = |value: Value| {
        json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "upgrade", "namespace": "shop"},
            "spec": {"configPatches": [
                {"applyTo": "NETWORK_FILTER", "match": {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}}},
                 "patch": {"operation": "MERGE", "value": {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "upgrade_configs": [{"upgrade_type": "CONNECT"}]}}}},
                {"applyTo": "VIRTUAL_HOST", "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"name": PORT.to_string(), "vhost": {"name": format!("squid.egress.svc.cluster.local:{PORT}")}}},
                 "patch": {"operation": "MERGE", "value": {"domains": ["*"]}}},
                {"applyTo": "VIRTUAL_HOST", "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"name": PORT.to_string(), "vhost": {"name": "allow_any"}}},
                 "patch": {"operation": "REMOVE"}},
                {"applyTo": "HTTP_ROUTE", "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"name": PORT.to_string(), "vhost": {"name": format!("squid.egress.svc.cluster.local:{PORT}")}}},
                 "patch": {"operation": "INSERT_FIRST", "value": value}}]}})
    };
    let cluster = format!("outbound|{PORT}||squid.egress.svc.cluster.local");
    let forward = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster}});
    add(table, "upgrade_forwarded", To::Address(VIP), vec![squid(), patch(forward)]);
    let terminate = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster, "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}});
    add(table, "upgrade_terminated", To::Address(VIP), vec![squid(), patch(terminate)]);
    let destination =
        json!([{"destination": {"host": "squid.egress.svc.cluster.local", "port": {"number": PORT}}}]);
    let route = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "proxy", "namespace": "shop"},
        "spec": {"hosts": ["squid.egress.svc.cluster.local"], "http": [{"route": destination}]}});
    add(table, "virtual_service_http", To::Address(VIP), vec![squid(), route]);
}

/// `DestinationRule` objects for a squid without a sidecar.
fn destination_rules(table: &mut Vec<Situation>, addresses: &Addresses) {
    let squid = || service("egress", "squid", Kind::ClusterIp, "tcp", None, Some("squid"));
    for mode in ["DISABLE", "SIMPLE", "ISTIO_MUTUAL"] {
        let rule = rule("shop", "squid", "squid.egress.svc.cluster.local", &json!({"tls": {"mode": mode}}));
        add(
            table,
            &format!("rule_tls_{}_vip_tcp", mode.to_lowercase()),
            To::Address(VIP),
            vec![squid(), rule],
        );
    }
    let wide = rule("istio-system", "all", "*.local", &json!({"tls": {"mode": "SIMPLE"}}));
    add(table, "rule_wide_tls_simple_vip_tcp", To::Address(VIP), vec![squid(), wide.clone()]);
    add(table, "rule_wide_tls_simple_undeclared", To::Squid, vec![wide]);
    let settings = json!({"tunnel": {"protocol": "CONNECT", "targetHost": "10.233.0.1", "targetPort": 8080}});
    let tunnel = rule("shop", "squid", "squid.egress.svc.cluster.local", &settings);
    add(table, "rule_tunnel_vip_tcp", To::Address(VIP), vec![squid(), tunnel]);
    let entry = entry("shop", "proxy", "TCP", "STATIC", &[&addresses.squid], &[&addresses.squid], &["*"]);
    let simple = rule("shop", "proxy", "proxy.shop.test", &json!({"tls": {"mode": "SIMPLE"}}));
    add(table, "rule_tls_simple_entry_tcp", To::Squid, vec![entry, simple]);
}

/// Both pods have a sidecar.
fn both_injected(table: &mut Vec<Situation>) {
    let service =
        |protocol| service("egress", "meshsquid", Kind::ClusterIp, protocol, None, Some("meshsquid"));
    let host = "meshsquid.egress.svc.cluster.local";
    add(table, "injected_pod_undeclared", To::MeshSquid, vec![]);
    for protocol in ["tcp", "http", "web", "tls"] {
        add(table, &format!("injected_vip_{protocol}"), To::Address(VIP), vec![service(protocol)]);
        add(table, &format!("injected_pod_{protocol}"), To::MeshSquid, vec![service(protocol)]);
    }
    for mode in ["STRICT", "PERMISSIVE", "DISABLE"] {
        let peers = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default", "namespace": "egress"},
            "spec": {"mtls": {"mode": mode}}});
        let title = mode.to_lowercase();
        add(
            table,
            &format!("injected_{title}_vip_tcp"),
            To::Address(VIP),
            vec![service("tcp"), peers.clone()],
        );
        add(table, &format!("injected_{title}_pod_undeclared"), To::MeshSquid, vec![peers.clone()]);
        let plain = rule("shop", "meshsquid", host, &json!({"tls": {"mode": "DISABLE"}}));
        add(
            table,
            &format!("injected_{title}_rule_disable_vip_tcp"),
            To::Address(VIP),
            vec![service("tcp"), peers, plain],
        );
    }
    for mode in ["SIMPLE", "ISTIO_MUTUAL"] {
        let rule = rule("shop", "meshsquid", host, &json!({"tls": {"mode": mode}}));
        add(
            table,
            &format!("injected_rule_{}_vip_tcp", mode.to_lowercase()),
            To::Address(VIP),
            vec![service("tcp"), rule],
        );
    }
    let deny = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "deny", "namespace": "egress"},
        "spec": {"action": "DENY", "rules": [{}]}});
    add(table, "injected_denied_vip_tcp", To::Address(VIP), vec![service("tcp"), deny.clone()]);
    add(table, "injected_denied_vip_http", To::Address(VIP), vec![service("http"), deny]);
    for (title, request, protocol) in [
        ("tcp_http10", Request::Connect10, "tcp"),
        ("tcp_denied_by_squid", Request::ConnectDenied, "tcp"),
        ("http_denied_by_squid", Request::ConnectDenied, "http"),
    ] {
        let name = format!("injected_vip_{title}");
        add_with(table, &name, Client::Default, To::Address(VIP), request, vec![service(protocol)]);
    }
}

/// Services whose endpoints are absent or dead.
fn dead_endpoints(table: &mut Vec<Situation>, addresses: &Addresses) {
    for protocol in ["tcp", "http", "web"] {
        let none = service("egress", "squid", Kind::ClusterIp, protocol, None, Some("no-such-pod"));
        add(table, &format!("no_endpoints_vip_{protocol}"), To::Address(VIP), vec![none]);
        // The endpoint is a pod on which nothing listens at this port.
        let objects = vec![
            service("egress", "squid", Kind::ClusterIp, protocol, None, None),
            slice(protocol, &addresses.squid, 3999),
        ];
        add(table, &format!("dead_endpoint_vip_{protocol}"), To::Address(VIP), objects);
    }
}

/// Other sidecars and other rules.
fn clients(table: &mut Vec<Situation>) {
    for (title, client) in [
        ("four_workers", Client::FourWorkers),
        ("openshift", Client::OpenShift),
        ("tproxy", Client::Tproxy),
        ("nftables", Client::Nftables),
        ("port_excluded", Client::PortExcluded),
        ("address_excluded", Client::AddressExcluded),
        ("services_included", Client::ServicesIncluded),
        ("no_sidecar", Client::NoSidecar),
    ] {
        let http = || other(Kind::ClusterIp, "http", None);
        let squid = || service("egress", "squid", Kind::ClusterIp, "tcp", None, Some("squid"));
        let mut at = |name: &str, to, request, objects| {
            add_with(table, &format!("{title}_{name}"), client, to, request, objects);
        };
        at("undeclared", To::Squid, Request::Connect, vec![]);
        at("undeclared_denied", To::Squid, Request::ConnectDenied, vec![]);
        at("undeclared_beside_http", To::Squid, Request::Connect, vec![http()]);
        at("undeclared_beside_http_http10", To::Squid, Request::Connect10, vec![http()]);
        if !matches!(client, Client::PortExcluded | Client::NoSidecar) {
            at("vip_tcp", To::Address(VIP), Request::Connect, vec![squid()]);
        }
        if !matches!(
            client,
            Client::NoSidecar | Client::PortExcluded | Client::AddressExcluded | Client::ServicesIncluded
        ) {
            at("undeclared_closed_port", To::ClosedPort, Request::Connect, vec![]);
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster_ip",
            Self::Headless => "headless",
            Self::ExternalName => "external_name",
        }
    }
}

fn protocol_title(name: &str, app: Option<&str>) -> String {
    let plain = |text: &str| text.replace(['-', '/', '.'], "_");
    app.map_or_else(|| plain(name), |app| format!("{}_app_{}", plain(name), plain(app)))
}

/// Another team's Service on the proxy's port.
fn other(kind: Kind, name: &str, app: Option<&str>) -> Value {
    let mut service = service("other", "reports", kind, name, app, Some("web"));
    if kind == Kind::ClusterIp {
        service["spec"]["clusterIP"] = json!("10.96.20.2");
    }
    service
}

fn service(
    namespace: &str,
    name: &str,
    kind: Kind,
    port_name: &str,
    app: Option<&str>,
    selects: Option<&str>,
) -> Value {
    let mut port = json!({"name": port_name, "port": PORT, "protocol": "TCP"});
    if let Some(app) = app {
        port["appProtocol"] = json!(app);
    }
    let mut spec = json!({"ports": [port]});
    match kind {
        Kind::ClusterIp => spec["clusterIP"] = json!(VIP.map(|byte| byte.to_string()).join(".")),
        Kind::Headless => spec["clusterIP"] = json!("None"),
        Kind::ExternalName => {
            spec["type"] = json!("ExternalName");
            spec["externalName"] = json!("reports.example.com");
        }
    }
    if let Some(app) = selects.filter(|_| kind != Kind::ExternalName) {
        spec["selector"] = json!({"app": app});
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn slice(port_name: &str, address: &str, port: u16) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "squid-by-hand", "namespace": "egress", "labels": {"kubernetes.io/service-name": "squid"}},
        "addressType": "IPv4", "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
}

fn entry(
    namespace: &str,
    name: &str,
    protocol: &str,
    resolution: &str,
    addresses: &[&str],
    endpoints: &[&str],
    export: &[&str],
) -> Value {
    let mut spec = json!({"hosts": [format!("{name}.{namespace}.test")], "resolution": resolution, "location": "MESH_EXTERNAL",
        "exportTo": export, "ports": [{"number": PORT, "name": format!("{}-proxy", protocol.to_lowercase()), "protocol": protocol}]});
    if !addresses.is_empty() {
        spec["addresses"] = json!(addresses);
    }
    if !endpoints.is_empty() {
        spec["endpoints"] = endpoints.iter().map(|address| json!({"address": address})).collect();
    }
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// A Sidecar resource for the client.
fn sidecar(mut spec: Value) -> Value {
    spec["workloadSelector"] = json!({"labels": {"app": "client"}});
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "client", "namespace": "shop"}, "spec": spec})
}

fn rule(namespace: &str, name: &str, host: &str, policy: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name, "namespace": namespace},
        "spec": {"host": host, "trafficPolicy": policy}})
}
