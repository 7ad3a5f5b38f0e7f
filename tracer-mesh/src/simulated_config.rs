//! The listeners and clusters that istiod would send Envoy after a fix. A fix is proven on them before it is shown.
//!
//! Source: istio pilot/pkg/networking/core/listener.go `buildSidecarOutboundListener` (a TCP port with an address gets
//! a listener `IP_PORT`), `buildListenerFromEntry`; `cluster_builder.go` (resolution NONE is `ORIGINAL_DST`).

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::overlay::Edit;

const TYPE: &str = "type.googleapis.com";

/// A TCP ServiceEntry with `resolution: NONE`: one listener for each address and port, one cluster for each port.
pub(crate) fn service_entry(host: &str, ips: &[IpAddr], ports: &[u16]) -> Edit {
    let mut edit = Edit::default();
    for port in ports {
        let cluster = format!("outbound|{port}||{host}");
        for ip in ips {
            edit.listeners.push(tcp_listener(SocketAddr::new(*ip, *port), &cluster));
        }
        edit.clusters.push(json!({
            "@type": format!("{TYPE}/envoy.config.cluster.v3.Cluster"),
            "name": cluster, "type": "ORIGINAL_DST", "connect_timeout": "10s", "lb_policy": "CLUSTER_PROVIDED",
        }));
    }
    edit
}

/// A service's port becomes TCP: the listener on its address passes the bytes to its cluster.
pub(crate) fn tcp_port(to: SocketAddr, cluster: &str) -> Edit {
    Edit { listeners: vec![tcp_listener(to, cluster)], ..Edit::default() }
}

/// A listener as istiod makes it for a port that a service declares as HTTP: it takes every address, and routes by host.
pub(crate) fn http_port(port: u16, cluster: &str, host: &str, domains: &[String]) -> Value {
    let listener_filter = |name: &str, message: &str| {
        json!({"name": format!("envoy.filters.listener.{name}"), "typed_config": {
            "@type": format!("{TYPE}/envoy.extensions.filters.listener.{name}.v3.{message}")}})
    };
    let virtual_host = |name: &str, domains: &[String], cluster: &str| json!({"name": name, "domains": domains, "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]});
    let tcp_proxy = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPE}/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "PassthroughCluster", "cluster": "PassthroughCluster"}});
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": format!("{TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": format!("outbound_0.0.0.0_{port}"),
        "route_config": {"name": port.to_string(), "virtual_hosts": [
            virtual_host(&format!("{host}:{port}"), domains, cluster),
            virtual_host("allow_any", &["*".to_owned()], "PassthroughCluster")]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": format!("{TYPE}/envoy.extensions.filters.http.router.v3.Router")}}]}});
    json!({
        "@type": format!("{TYPE}/envoy.config.listener.v3.Listener"),
        "name": format!("0.0.0.0_{port}"),
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "filter_chains": [{
            "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
            "filters": [manager],
        }],
        "default_filter_chain": {"name": "PassthroughFilterChain", "filters": [tcp_proxy]},
        "listener_filters": [listener_filter("tls_inspector", "TlsInspector"), listener_filter("http_inspector", "HttpInspector")],
        "listener_filters_timeout": "0s",
        "traffic_direction": "OUTBOUND",
        "continue_on_listener_filters_timeout": true,
        "bind_to_port": false,
    })
}

/// A listener as istiod makes it for a TCP port with an address.
fn tcp_listener(to: SocketAddr, cluster: &str) -> Value {
    json!({
        "@type": format!("{TYPE}/envoy.config.listener.v3.Listener"),
        "name": format!("{}_{}", to.ip(), to.port()),
        "address": {"socket_address": {"address": to.ip().to_string(), "port_value": to.port()}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPE}/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": cluster, "cluster": cluster,
            },
        }]}],
        "listener_filters_timeout": "0s",
        "traffic_direction": "OUTBOUND",
        "continue_on_listener_filters_timeout": true,
        "bind_to_port": false,
    })
}

/// A cluster whose hosts Envoy speaks TLS to.
pub(crate) fn with_tls(cluster: Value) -> Edit {
    let mut edit = without_tls(cluster);
    for members in edit.clusters.iter_mut().filter_map(Value::as_object_mut) {
        let socket = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{TYPE}/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext")}});
        members.insert("transport_socket".to_owned(), socket);
    }
    edit
}

/// A cluster without TLS.
pub(crate) fn without_tls(mut cluster: Value) -> Edit {
    if let Some(members) = cluster.as_object_mut() {
        for name in [
            "transport_socket",
            "transport_socket_matches",
            "tls_context",
            "transportSocket",
            "transportSocketMatches",
            "tlsContext",
        ] {
            members.remove(name);
        }
    }
    Edit { clusters: vec![cluster], ..Edit::default() }
}
