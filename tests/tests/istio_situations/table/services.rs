//! Kubernetes Services alone: the proxy's own, and other teams' on the proxy's port.

use super::objects::{Kind, PROTOCOLS, other, protocol_title, service};
use super::{Client, Request, Situation, To, VIP, add, add_with};

/// The proxy's address belongs to no object; another team's Service has the port.
pub(super) fn undeclared(table: &mut Vec<Situation>) {
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
pub(super) fn declared(table: &mut Vec<Situation>) {
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
