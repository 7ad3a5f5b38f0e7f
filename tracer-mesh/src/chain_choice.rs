//! Which filter chain of a listener takes a connection.

use std::net::SocketAddr;

use serde_json::Value;

use super::chain_match::{self, Connection};
use super::decision::{ConnectionOutcome, Decision};
use super::detection::Seen;
use super::json::{Extension, Node};
use super::listener::{FilterChain, Handler, Listener};
use super::matcher;

/// The chain whose conditions fit, or the default one.
pub(crate) fn by_conditions<'l>(
    listener: &'l Listener,
    seen: &Seen,
    to: SocketAddr,
    decision: &mut Decision,
) -> Option<(&'l FilterChain, bool)> {
    let connection = Connection {
        destination: to,
        source: None,
        server_name: &seen.server_name,
        transport: &seen.transport,
        applications: &seen.applications,
    };
    for chain in &listener.chains {
        decision.caveats(&chain.matches.unread);
    }
    let found = chain_match::find(listener.chains.iter().map(|chain| &chain.matches), &connection);
    if found.is_some_and(|found| found.ambiguous) {
        decision.caveat(
            "one filter chain names an empty prefix and another names none; which of them Envoy takes differs from start \
             to start",
        );
    }
    let by_match = found.and_then(|found| listener.chains.get(found.index));
    by_match.map(|chain| (chain, true)).or(listener.default_chain.as_ref().map(|chain| (chain, false)))
}

/// The chain that `filter_chain_matcher` names. `None` with an outcome or a caveat set.
///
/// Source: envoy `FilterChainManagerImpl::findFilterChainUsingMatcher`; inputs in
/// `source/extensions/matching/network/common/inputs.h`.
pub(crate) fn by_tree<'l>(
    tree: &Value,
    listener: &'l Listener,
    seen: &Seen,
    to: SocketAddr,
    decision: &mut Decision,
) -> Option<&'l FilterChain> {
    let some = |text: &str| Ok((!text.is_empty()).then(|| text.to_owned()));
    let input = |extension: &Extension<'_>| match extension.message {
        "ApplicationProtocolInput" => {
            let quoted: Vec<String> = seen.applications.iter().map(|name| format!("'{name}'")).collect();
            some(&quoted.join(","))
        }
        "TransportProtocolInput" => some(&seen.transport),
        "ServerNameInput" => some(&seen.server_name),
        "DestinationPortInput" => Ok(Some(to.port().to_string())),
        "DestinationIPInput" => Ok(Some(to.ip().to_string())),
        other => Err(format!("a match tree over {other}")),
    };
    let name = match matcher::evaluate(Node::of(tree), &input) {
        Ok(Some(action)) => {
            action.config.field("value").text().or(action.config.field("name").text()).map(str::to_owned)
        }
        Ok(None) => None,
        Err(what) => {
            decision.caveat(format!("the listener chooses its chain by {what}, which is not evaluated here"));
            decision.step("The listener chooses its chain by a match tree that is not evaluated here.");
            return None;
        }
    };
    // The default chain is for connections that no rule takes, not for a name that no chain has.
    let chain = match name {
        Some(name) => listener.chains.iter().find(|chain| chain.name.as_deref() == Some(name.as_str())),
        None => listener.default_chain.as_ref(),
    };
    if chain.is_none() {
        decision.step("The match tree names no filter chain; Envoy closes the connection.");
        decision.outcome = ConnectionOutcome::Close;
        decision.details = Some("filter_chain_not_found".to_owned());
    }
    chain
}

/// The sentence about the chosen chain; `matched` is false for the default chain.
pub(crate) fn describe(chain: &FilterChain, matched: bool) -> String {
    let which = match (&chain.name, matched) {
        (Some(name), true) => format!("Filter chain {name}"),
        (Some(name), false) => format!("No chain fits; the default filter chain {name}"),
        (None, true) => "A filter chain without a name".to_owned(),
        (None, false) => "No chain fits; the default filter chain".to_owned(),
    };
    let protocols = &chain.matches.application_protocols;
    let condition =
        if protocols.is_empty() { String::new() } else { format!(" (for {})", protocols.join(", ")) };
    let handler = match &chain.handler {
        Handler::Http(_) => "an HTTP connection manager, which reads the bytes as HTTP",
        Handler::Tcp(_) => "a TCP proxy, which passes the bytes on",
        Handler::Answer(_) => "a filter that sends bytes of its own",
        Handler::Other(name) => return format!("{which}{condition} takes it: {name}."),
        Handler::None => "no filter at all",
    };
    format!("{which}{condition} takes it: {handler}.")
}
