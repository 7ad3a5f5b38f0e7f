//! Objects of the situations, as the API server takes them.

use serde_json::{Value, json};

use super::{PORT, VIP};

/// Ways to declare a port's protocol: `(name, appProtocol)`.
pub(super) const PROTOCOLS: &[(&str, Option<&str>)] = &[
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
pub(super) enum Kind {
    ClusterIp,
    Headless,
    ExternalName,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster_ip",
            Self::Headless => "headless",
            Self::ExternalName => "external_name",
        }
    }
}

pub(super) fn protocol_title(name: &str, app: Option<&str>) -> String {
    let plain = |text: &str| text.replace(['-', '/', '.'], "_");
    app.map_or_else(|| plain(name), |app| format!("{}_app_{}", plain(name), plain(app)))
}

/// Another team's Service on the proxy's port.
pub(super) fn other(kind: Kind, name: &str, app: Option<&str>) -> Value {
    let mut service = service("other", "reports", kind, name, app, Some("web"));
    if kind == Kind::ClusterIp {
        service["spec"]["clusterIP"] = json!("10.96.20.2");
    }
    service
}

pub(super) fn service(
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

pub(super) fn slice(port_name: &str, address: &str, port: u16) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "squid-by-hand", "namespace": "egress", "labels": {"kubernetes.io/service-name": "squid"}},
        "addressType": "IPv4", "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
}

pub(super) fn entry(
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
pub(super) fn sidecar(mut spec: Value) -> Value {
    spec["workloadSelector"] = json!({"labels": {"app": "client"}});
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "client", "namespace": "shop"}, "spec": spec})
}

pub(super) fn rule(namespace: &str, name: &str, host: &str, policy: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name, "namespace": namespace},
        "spec": {"host": host, "trafficPolicy": policy}})
}
