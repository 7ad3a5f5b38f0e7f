//! The clusters that all worlds share.

use serde_json::{Value, json};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const SOCKETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets";

/// Clusters that a TCP proxy or a route may use; `missing` does not exist.
pub(super) const NAMES: [&str; 20] = [
    "PassthroughCluster",
    "PassthroughCluster",
    "BlackHoleCluster",
    "static",
    "static",
    "two",
    "sick",
    "panic",
    "missing",
    "limited",
    "subset",
    "subset-any",
    "statistics",
    "tls",
    "proxy-protocol",
    "other-port",
    "labeled",
    "balanced",
    "bound",
    "static",
];

fn host(address: &str, port: u16) -> Value {
    json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
}

fn with_hosts(name: &str, hosts: &[Value], more: Value) -> Value {
    let mut cluster = json!({"@type": CLUSTER, "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"locality": {"region": "r"}, "load_balancing_weight": 1, "priority": 0, "lb_endpoints": hosts}],
            "policy": {"overprovisioning_factor": 140}}});
    if let Value::Object(more) = more {
        for (key, value) in more {
            cluster[key] = value;
        }
    }
    cluster
}

fn socket(kind: &str, config: Value) -> Value {
    let mut typed = config;
    typed["@type"] = format!("{SOCKETS}.{kind}").into();
    json!({"name": "socket", "typed_config": typed})
}

pub(crate) fn clusters() -> Vec<Value> {
    let raw = || socket("raw_buffer.v3.RawBuffer", json!({}));
    let tls = || socket("tls.v3.UpstreamTlsContext", json!({"sni": "proxy.test", "common_tls_context": {}}));
    let mut sick = host("127.0.0.1", 9);
    sick["health_status"] = "UNHEALTHY".into();
    let mut labeled = host("10.55.0.1", 3128);
    labeled["metadata"] = json!({"filter_metadata": {"envoy.transport_socket_match": {"kind": "plain"},
        "envoy.lb": {"version": "1"}}});
    labeled["load_balancing_weight"] = 1.into();
    let subsets = |policy: &str| {
        json!({"lb_subset_config": {"fallback_policy": policy, "locality_weight_aware": false,
            "subset_selectors": [{"keys": ["version"]}]}})
    };
    vec![
        json!({"@type": CLUSTER, "name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}),
        json!({"@type": CLUSTER, "name": "other-port", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"upstream_port_override": 4000}}),
        json!({"@type": CLUSTER, "name": "BlackHoleCluster", "type": "STATIC"}),
        with_hosts("static", &[host("127.0.0.1", 9)], json!({})),
        with_hosts("two", &[host("10.55.0.1", 3128), host("10.55.0.2", 3128)], json!({})),
        with_hosts("sick", &[sick.clone()], json!({"common_lb_config": {"healthy_panic_threshold": {}}})),
        with_hosts("panic", &[sick], json!({})),
        with_hosts(
            "limited",
            &[host("127.0.0.1", 9)],
            json!({"circuit_breakers": {"thresholds": [
                {"priority": "DEFAULT", "max_connections": 0, "max_requests": 0, "track_remaining": true}]}}),
        ),
        with_hosts("subset", &[labeled.clone()], subsets("NO_FALLBACK")),
        with_hosts("subset-any", &[labeled.clone()], subsets("ANY_ENDPOINT")),
        with_hosts(
            "statistics",
            &[host("10.55.0.3", 3128)],
            json!({"transport_socket": socket("tcp_stats.v3.Config",
                json!({"transport_socket": raw(), "update_period": "5s"}))}),
        ),
        with_hosts("tls", &[host("10.55.0.4", 3128)], json!({"transport_socket": tls()})),
        with_hosts(
            "proxy-protocol",
            &[host("10.55.0.5", 3128)],
            json!({"transport_socket": socket("proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                json!({"config": {"version": "V1"}, "transport_socket": raw()}))}),
        ),
        with_hosts(
            "labeled",
            &[labeled],
            json!({"transport_socket_matches": [
                {"name": "tls", "match": {"kind": "tls"}, "transport_socket": tls()},
                {"name": "plain", "match": {"kind": "plain"}, "transport_socket": raw()},
            ], "transport_socket": tls()}),
        ),
        with_hosts(
            "balanced",
            &[host("10.55.0.6", 3128)],
            json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.round_robin", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"}}}]}}),
        ),
        with_hosts(
            "bound",
            &[host("127.0.0.1", 9)],
            json!({"upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}}}),
        ),
    ]
}
