//! Settings of the mesh, of a pod's sidecar and of Sidecar resources that change which address the app dials or what the sidecar
//! listens on; and one address in one situation after another.

use serde_json::{Value, json};

use super::objects::{Kind, entry, other, rule, service, sidecar};
use super::{Addresses, Client, PORT, Request, Situation, To, VIP, add, add_with};

/// Settings of the whole mesh.
pub(super) fn mesh_configs(table: &mut Vec<Situation>) {
    let http = || other(Kind::ClusterIp, "http", None);
    let squid = |protocol| service("egress", "squid", Kind::ClusterIp, protocol, None, Some("squid"));
    let mut at = |name: &str, config: Value, client, to, request, objects| {
        add_with(table, name, client, to, request, objects);
        if let Some(situation) = table.last_mut() {
            situation.mesh_config = config;
        }
    };
    let port = json!({"proxyHttpPort": 15002});
    at("proxy_http_port", port.clone(), Client::Default, To::Loopback(15002), Request::Connect, vec![]);
    at(
        "proxy_http_port_undeclared_beside_http",
        port,
        Client::Default,
        To::Squid,
        Request::Connect,
        vec![http()],
    );

    let timeout = json!({"protocolDetectionTimeout": "0.2s"});
    for (title, request) in [("at_once", Request::Connect), ("late", Request::Late)] {
        let mut detected = |name: &str, to, objects| {
            let name = format!("detection_timeout_{name}_{title}");
            at(&name, timeout.clone(), Client::Default, to, request, objects);
        };
        detected("undeclared", To::Squid, vec![]);
        detected("undeclared_beside_http", To::Squid, vec![http()]);
        detected("vip_web", To::Address(VIP), vec![squid("web")]);
        detected("vip_http", To::Address(VIP), vec![squid("http")]);
    }

    let only = json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}});
    at("mesh_registry_only_undeclared", only.clone(), Client::Default, To::Squid, Request::Connect, vec![]);
    at(
        "mesh_registry_only_beside_http",
        only.clone(),
        Client::Default,
        To::Squid,
        Request::Connect,
        vec![http()],
    );
    at(
        "mesh_registry_only_vip_tcp",
        only,
        Client::Default,
        To::Address(VIP),
        Request::Connect,
        vec![squid("tcp")],
    );

    let listen = json!({"proxyListenPort": 15123});
    at("listen_port_undeclared", listen.clone(), Client::ListenPort, To::Squid, Request::Connect, vec![]);
    at("listen_port_denied", listen.clone(), Client::ListenPort, To::Squid, Request::ConnectDenied, vec![]);
    at(
        "listen_port_beside_http",
        listen.clone(),
        Client::ListenPort,
        To::Squid,
        Request::Connect,
        vec![http()],
    );
    at(
        "listen_port_vip_tcp",
        listen,
        Client::ListenPort,
        To::Address(VIP),
        Request::Connect,
        vec![squid("tcp")],
    );
}

/// The app dials a listener of its own sidecar, or the sidecar's pod redirects nothing.
pub(super) fn own_listeners(table: &mut Vec<Situation>) {
    let squid = || service("egress", "squid", Kind::ClusterIp, "tcp", None, Some("squid"));
    let http = || other(Kind::ClusterIp, "http", None);
    let bound = |client: &str, protocol: &str| {
        let port = json!({"number": PORT, "protocol": protocol, "name": "proxy"});
        let listener =
            json!({"port": port, "bind": "127.0.0.1", "captureMode": "NONE", "hosts": ["egress/*"]});
        let mut object = sidecar(json!({"egress": [listener, {"hosts": ["*/*"]}]}));
        object["spec"]["workloadSelector"]["labels"]["app"] = json!(client);
        object
    };
    for protocol in ["TCP", "HTTP"] {
        let title = protocol.to_lowercase();
        let to = To::Loopback(PORT);
        add(table, &format!("egress_bind_{title}"), to, vec![bound("client", protocol), squid()]);
        let name = format!("no_redirect_egress_bind_{title}");
        let objects = vec![bound("no-redirect", protocol), squid()];
        add_with(table, &name, Client::NoRedirect, to, Request::Connect, objects);
    }
    add_with(table, "no_redirect_undeclared", Client::NoRedirect, To::Squid, Request::Connect, vec![]);
    add_with(table, "no_redirect_beside_http", Client::NoRedirect, To::Squid, Request::Connect, vec![http()]);
}

/// Names: what the sidecar resolves, and addresses that istiod allocates to them.
pub(super) fn names(table: &mut Vec<Situation>, addresses: &Addresses) {
    let http = || other(Kind::ClusterIp, "http", None);
    let squid = addresses.squid.as_str();
    for protocol in ["TCP", "HTTP", "TLS"] {
        let title = protocol.to_lowercase();
        for (what, endpoint) in [("", squid), ("_unresolvable", "proxy.no-such-domain.test")] {
            let own = entry("shop", "proxy", protocol, "DNS", &[], &[endpoint], &["*"]);
            let name = format!("allocated_{title}{what}");
            let to = To::Name("proxy.shop.test");
            add_with(table, &name, Client::DnsCapture, to, Request::Connect, vec![own.clone()]);
            if what.is_empty() {
                let name = format!("{name}_beside_http");
                add_with(table, &name, Client::DnsCapture, to, Request::Connect, vec![own.clone(), http()]);
                // The app knows the proxy's address, not its name.
                let name = format!("dns_capture_{title}_pod");
                add_with(table, &name, Client::DnsCapture, To::Squid, Request::Connect, vec![own]);
            }
        }
        let far = "proxy.no-such-domain.test";
        let others = entry("other", "db", protocol, "DNS", &[], &[far], &["*"]);
        add(table, &format!("another_entry_unresolvable_{title}"), To::Squid, vec![others]);
        let own = entry("shop", "proxy", protocol, "DNS", &[squid], &[far], &["*"]);
        add(table, &format!("entry_dns_unresolvable_{title}"), To::Squid, vec![own]);
    }
    add_with(table, "dns_capture_beside_http", Client::DnsCapture, To::Squid, Request::Connect, vec![http()]);
}

/// One address in one situation after another: what is remembered of it must not mislead.
pub(super) fn sequences(table: &mut Vec<Situation>, addresses: &Addresses) {
    let squid = |protocol| service("egress", "squid", Kind::ClusterIp, protocol, None, Some("squid"));
    let simple =
        || rule("shop", "squid", "squid.egress.svc.cluster.local", &json!({"tls": {"mode": "SIMPLE"}}));
    let dead = || service("egress", "squid", Kind::ClusterIp, "tcp", None, Some("no-such-pod"));
    let steps: [(&str, Vec<Value>); 8] = [
        ("1_tls", vec![squid("tcp"), simple()]),
        ("2_tcp", vec![squid("tcp")]),
        ("3_no_endpoints", vec![dead()]),
        ("4_tcp", vec![squid("tcp")]),
        ("5_http", vec![squid("http")]),
        ("6_no_endpoints", vec![dead()]),
        ("7_tls", vec![squid("tcp"), simple()]),
        ("8_no_endpoints", vec![dead()]),
    ];
    for (title, objects) in steps {
        add(table, &format!("then_vip_{title}"), To::Address(VIP), objects);
    }
    let only = || {
        sidecar(json!({"egress": [{"hosts": ["*/*"]}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}))
    };
    let own = |protocol| entry("shop", "proxy", protocol, "NONE", &[&addresses.squid], &[], &["*"]);
    for (title, objects) in [
        ("1_undeclared", vec![]),
        ("2_registry_only", vec![only()]),
        ("3_entry_http", vec![only(), own("HTTP")]),
        ("4_entry_tcp", vec![only(), own("TCP")]),
        ("5_registry_only", vec![only()]),
        ("6_entry_http", vec![only(), own("HTTP")]),
        ("7_undeclared", vec![]),
    ] {
        add(table, &format!("then_pod_{title}"), To::Squid, objects);
    }
}
