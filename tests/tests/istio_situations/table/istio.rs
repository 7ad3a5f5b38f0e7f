//! Istio's objects: ServiceEntry, Sidecar, EnvoyFilter, VirtualService and DestinationRule.

use serde_json::{Value, json};

use super::objects::{Kind, entry, other, rule, service, sidecar};
use super::{Addresses, EXTERNAL, PORT, Situation, To, VIP, add};

/// `ServiceEntry` objects: the app's team's, and other teams'.
pub(super) fn service_entries(table: &mut Vec<Situation>, addresses: &Addresses) {
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
pub(super) fn sidecars(table: &mut Vec<Situation>, addresses: &Addresses) {
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
pub(super) fn upgrades(table: &mut Vec<Situation>) {
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
pub(super) fn destination_rules(table: &mut Vec<Situation>, addresses: &Addresses) {
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
