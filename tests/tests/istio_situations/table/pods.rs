//! What the pods are like: proxies with a sidecar of their own, dead endpoints, and other sidecars and rules for the app.

use serde_json::json;

use super::objects::{Kind, other, rule, service, slice};
use super::{Addresses, Client, Request, Situation, To, VIP, add, add_with};

/// Both pods have a sidecar.
pub(super) fn both_injected(table: &mut Vec<Situation>) {
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
pub(super) fn dead_endpoints(table: &mut Vec<Situation>, addresses: &Addresses) {
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
pub(super) fn clients(table: &mut Vec<Situation>) {
    for (title, client) in [
        ("one_worker", Client::OneWorker),
        ("four_workers", Client::FourWorkers),
        ("any_user", Client::AnyUser),
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
