//! Each ServiceEntry that passes the proxy's addresses as TCP: a new one, and the one that lacks some of them.

use std::net::{IpAddr, SocketAddr};

use crate::candidate::cause::edit_entry;
use crate::candidate::{APPLY, Candidate, Failure, addresses, app_namespace};
use crate::decision::{Decision, Place};
use crate::dump::Dump;
use crate::manifest::{Manifest, Scope, object_name};
use crate::origin;
use crate::overlay::Edit;
use crate::simulated_config;

/// A TCP ServiceEntry with all of the proxy's addresses.
pub(super) fn new(dump: &Dump, failures: &[&Failure<'_>]) -> Candidate {
    let (cures, ips, ports) = addresses(failures);
    let parts = ips.iter().map(ToString::to_string).chain(ports.iter().map(u16::to_string));
    let name = object_name("forward-proxy", &parts.collect::<Vec<_>>());
    // The host is not used for matching, but it must be a valid one that nothing else declares.
    let host = format!("{name}.external");
    let scope = match app_namespace(dump) {
        Some(namespace) => Scope { namespace, is_private: true },
        // The root namespace: seen by all.
        None => Scope { namespace: "istio-system".to_owned(), is_private: false },
    };
    let seen_by = if scope.is_private {
        format!("It is seen by namespace {} only; without exportTo by all.", scope.namespace)
    } else {
        "It is seen by every namespace.".to_owned()
    };
    let list = cures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Candidate {
        title: format!("ServiceEntry: send {list} as TCP"),
        apply: APPLY.to_owned(),
        risk: if scope.is_private { "low: one namespace sees it" } else { "every namespace sees it" },
        trade_off: format!(
            "List every address that the proxy's name resolves to: each one left out keeps failing. {seen_by} A \
             Sidecar resource that restricts egress.hosts must import {}/{host}, and no DestinationRule may give that \
             host TLS.",
            scope.namespace
        ),
        edit: simulated_config::service_entry(&host, &ips, &ports),
        manifest: Manifest::service_entry(name, host, &scope, &ips, &ports),
        cures,
        unless: None,
    }
}

/// The host and port of a ServiceEntry that already takes some of the proxy's addresses.
pub(super) fn existing(reached: &[(SocketAddr, &Decision)]) -> Option<(String, u16)> {
    reached.iter().find_map(|(_, decision)| {
        let (port, host) = origin::outbound_cluster(decision.cluster.as_deref()?)?;
        let is_kubernetes = host.split('.').nth(2) == Some("svc");
        (decision.inner.place == Place::Exact && !is_kubernetes).then(|| (host.to_owned(), port))
    })
}

/// The proxy's ServiceEntry is there, but does not list all of its addresses.
pub(super) fn more_addresses(
    (host, port): &(String, u16),
    reached: &[(SocketAddr, &Decision)],
    failures: &[&Failure<'_>],
) -> Candidate {
    let (cures, missing, _) = addresses(failures);
    let known = reached.iter().map(|(to, _)| to.ip());
    let all: Vec<IpAddr> = known.chain(missing.iter().copied()).collect();
    let name = format!("outbound|{port}||{host}");
    let mut edit = Edit::default();
    for to in &cures {
        edit.listeners.append(&mut simulated_config::tcp_port(*to, &name).listeners);
    }
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Candidate {
        title: format!("ServiceEntry for {host}: add {list}"),
        apply: edit_entry(None, host),
        manifest: Manifest::more_addresses(&all),
        risk: "low: the entry only takes more addresses",
        trade_off: "Keep every address that the entry had, and list every one that the proxy's name resolves to: each \
                    one left out keeps failing."
            .to_owned(),
        edit,
        cures,
        unless: None,
    }
}
