//! What a filter chain does with a connection: the filters before the one that handles it, its transport socket, and that
//! one's kind.

use super::Error;
use super::decision::{ConnectionOutcome, Decision, Kind};
use super::dialed::Dialed;
use super::listener::{FilterChain, Handler, Socket};
use super::tls_inspector::{self, Hello};
use super::{http, tcp};

/// Decides on one filter chain. Returns the internal listener that the connection goes on to, if there is one.
pub(crate) fn on_chain(
    dialed: Dialed<'_>,
    chain: &FilterChain,
    decision: &mut Decision,
) -> Result<Option<String>, Error> {
    let Dialed { view, to, head } = dialed;
    decision.caveats(&chain.unread);
    decision.kind = match &chain.handler {
        Handler::Http(_) => Kind::Http,
        Handler::Tcp(_) => Kind::Tcp,
        Handler::Other(_) | Handler::Answer(_) => Kind::Other,
        Handler::None => Kind::None,
    };
    for filter in chain.before.iter().filter(|name| may_close(name)) {
        decision.caveat(format!("network filter {filter} may close the connection first"));
    }
    // RoleBasedAccessControlFilter::onData: the first byte decides.
    if let Some(details) = chain.denied.as_ref().filter(|_| !head.is_empty()) {
        decision.step("A network filter (RBAC) refuses every connection; Envoy closes it.");
        decision.outcome = ConnectionOutcome::Close;
        decision.details = Some(details.clone());
        return Ok(None);
    }
    if let Socket::Other(name) = &chain.socket {
        decision.caveat(format!("transport socket {name} of the chain is not evaluated here"));
    }
    if chain.socket == Socket::Tls {
        decision.step("The chain expects TLS and ends it.");
        if tls_inspector::inspect(head) == Hello::NotTls {
            decision.outcome = ConnectionOutcome::Close;
        } else {
            decision.caveat("what is inside the TLS is not known");
        }
        return Ok(None);
    }
    match &chain.handler {
        Handler::Http(hcm) => http::on_hcm(view, hcm, to, head, decision).map(|()| None),
        Handler::Tcp(proxy) => tcp::on_tcp_proxy(view, proxy, chain.cluster_override.as_ref(), to, decision),
        Handler::Answer(bytes) => {
            decision.step(format!("It sends {bytes:?} and closes the connection."));
            decision.outcome = ConnectionOutcome::Answered;
            decision.details = Some("direct_response".to_owned());
            Ok(None)
        }
        Handler::Other(name) => {
            decision.step(format!("{name} reads the bytes as its own protocol and ends the connection."));
            if !is_known_protocol(name) {
                decision.caveat(format!("network filter {name} is not evaluated here"));
            }
            decision.outcome = ConnectionOutcome::Close;
            Ok(None)
        }
        Handler::None => {
            // ActiveStreamListenerBase::newConnection: "closing connection: no filters".
            decision.step("Envoy closes a connection whose chain has no filters.");
            decision.outcome = ConnectionOutcome::Close;
            Ok(None)
        }
    }
}

/// Filters of another protocol, which close a connection whose first bytes are HTTP.
fn is_known_protocol(name: &str) -> bool {
    ["redis_proxy", "mongo_proxy", "mysql_proxy", "dubbo_proxy", "thrift_proxy", "zookeeper_proxy"]
        .iter()
        .any(|known| name.ends_with(known))
}

/// Network filters that only count never close a connection.
fn may_close(name: &str) -> bool {
    !matches!(
        name,
        "istio.stats"
            | "istio.metadata_exchange"
            | "envoy.filters.network.metadata_exchange"
            | "forward_downstream_sni"
            | "envoy.filters.network.forward_downstream_sni"
            | "envoy.filters.network.set_filter_state"
    )
}
