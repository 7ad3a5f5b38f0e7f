//! The sentences of an explanation: why a listener is what it is, and what that does to the connection.

use std::net::SocketAddr;

use super::decision::{ConnectionOutcome, Decision, Kind, Place};
use super::origin::{Declared, Origins};

/// Why the listener treats the connection so, in a few words: `Service shop/web port 3128 (HTTP)`.
///
/// `None` where the dump does not say.
pub(crate) fn because(decision: &Decision, origins: &Origins) -> Option<String> {
    let how = match origins.declared {
        Declared::Http => " (HTTP)",
        Declared::Nothing => " (protocol not declared)",
        Declared::Unnamed => "",
    };
    let Some(first) = origins.list.first() else {
        let policy = decision.inner.place == Place::Entry;
        return match (decision.kind, decision.outcome) {
            (Kind::Http, _) if policy => {
                Some("the mesh sniffs HTTP on ports that no service declares".to_owned())
            }
            (_, ConnectionOutcome::Close) if policy => {
                Some("the outbound traffic policy lets only declared destinations through".to_owned())
            }
            _ => None,
        };
    };
    let port = first.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let more = match origins.total.saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("{}{port}{how}{more}", first.label()))
}

/// One or two sentences: what happens to the connection, and why.
pub(crate) fn explanation(to: SocketAddr, decision: &Decision, origins: &Origins) -> String {
    let listener = decision.listener.as_deref().unwrap_or("without a name");
    let cause = match because(decision, origins) {
        Some(because) => format!(" (made by {because})"),
        None if decision.kind == Kind::Http => " (the dump does not say which object made it)".to_owned(),
        None => String::new(),
    };
    let cluster = decision.cluster.as_deref().unwrap_or("its cluster");
    let status = decision.status.map_or_else(String::new, |status| status.to_string());
    match decision.outcome {
        ConnectionOutcome::LocalReply => {
            if decision.inner.routes_missing {
                return format!(
                    "Envoy's HTTP listener {listener}{cause} reads the connection to {to} as HTTP; what it answers depends \
                     on routes that are not in this dump."
                );
            }
            let why = match decision.details.as_deref() {
                Some("route_not_found") if decision.inner.no_domain_for.is_some() => format!(
                    "no virtual host has the domain {}",
                    decision.inner.no_domain_for.as_deref().unwrap_or_default()
                ),
                Some("route_not_found") if decision.inner.is_connect => {
                    "it has no route for a CONNECT, which has no path".to_owned()
                }
                Some("upgrade_failed") => {
                    "a route takes the CONNECT, but the upgrade is not enabled for it".to_owned()
                }
                Some("low_version") => "it does not accept HTTP/1.0".to_owned(),
                Some(details) => details.to_owned(),
                None => "that is what it is configured to do".to_owned(),
            };
            let early = match decision.early_filters.first() {
                Some(filter) => format!(" {filter} may answer before that."),
                None => String::new(),
            };
            format!(
                "Envoy's HTTP listener {listener}{cause} reads the connection to {to} as HTTP and answers {status} by \
                 itself, because {why}; it never dials {to}.{early}"
            )
        }
        ConnectionOutcome::Forward => format!(
            "Envoy's HTTP listener {listener}{cause} reads the connection to {to} as HTTP and sends a request of its \
             own to {cluster}, rewritten, in place of the app's."
        ),
        ConnectionOutcome::Terminate => format!(
            "Envoy's HTTP listener {listener}{cause} answers the CONNECT to {to} with 200 by itself (connect_config) \
             and sends only what follows to {cluster}, so the proxy never sees the CONNECT."
        ),
        ConnectionOutcome::Tunnel if decision.inner.place == Place::NotRedirected => {
            format!("Envoy never sees the connection to {to}: the app and the proxy speak directly.")
        }
        ConnectionOutcome::Tunnel if decision.inner.wraps_tls => format!(
            "Envoy passes the connection to {to} on as TCP, but wraps it in TLS towards {cluster}{cause}, so the proxy \
             gets a ClientHello in place of the CONNECT."
        ),
        ConnectionOutcome::Tunnel => format!(
            "Envoy passes the connection to {to} on as TCP ({cluster}), so any answer is the proxy's own."
        ),
        ConnectionOutcome::Elsewhere if decision.inner.is_rewritten => format!(
            "Envoy does not pass the connection to {to} on as it is: it opens a CONNECT of its own through {cluster}{cause} to {} \
             and sends the bytes inside it, so any answer comes from there.",
            decision.sent_to.as_deref().unwrap_or("another host")
        ),
        ConnectionOutcome::Elsewhere => format!(
            "Envoy passes the connection to {to} on as TCP, but to {} ({cluster}){cause}, so the answer is not the proxy's.",
            decision.sent_to.as_deref().unwrap_or("another host")
        ),
        ConnectionOutcome::Answered => format!(
            "Envoy's listener {listener} answers the connection to {to} with bytes of its own and closes it."
        ),
        ConnectionOutcome::Close => {
            let why = match (decision.cluster.as_deref(), decision.details.as_deref()) {
                (Some("BlackHoleCluster"), _) => {
                    "no listener knows the address, and the outbound traffic policy is REGISTRY_ONLY"
                        .to_owned()
                }
                (Some(cluster), _) => format!("cluster {cluster} has no endpoint to send to{cause}"),
                (None, Some(details)) => details.to_owned(),
                (None, None) => format!("its chain{cause} does not speak the app's protocol"),
            };
            format!("Envoy's listener {listener} closes the connection to {to} without a byte: {why}.")
        }
        ConnectionOutcome::Pending => {
            format!(
                "Envoy's listener {listener} decides nothing about {to} yet: it waits for more of the first bytes."
            )
        }
    }
}
