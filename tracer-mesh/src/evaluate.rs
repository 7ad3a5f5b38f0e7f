//! The decision on one outbound connection, from the dialed address and the first bytes to the outcome: which
//! listener, what it detects, which chain, and what the chain does. Pure: no IO, no clock, no panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::chain_match::{self, Connection};
use super::cluster::{Cluster, Hosts, Tls};
use super::decision::{Decision, Detected, Kind, Outcome, Place};
use super::dump::Dump;
use super::http;
use super::http_inspector::{self, Sniff};
use super::index::ListenerHead;
use super::json::{Extension, Node};
use super::listener::{FilterChain, Handler, Listener, ListenerFilter, ListenerFilterKind, Socket};
use super::matcher;
use super::overlay::{Found, View, is_loopback};
use super::redirect::Identity;
use super::tcp_proxy::TcpProxy;
use super::tls_inspector::{self, Hello};
use super::{Edit, Error};

/// Decides what the sidecar does with a connection to `to` whose first bytes are `head`.
///
/// Fails where the dump cannot tell: it has no listener that redirected connections enter by, or an entry that
/// the decision needs cannot be parsed.
pub fn decide(dump: &Dump, to: SocketAddr, head: &[u8]) -> Result<Decision, Error> {
    decide_on(View::of(dump), to, head)
}

/// Decides what the sidecar would do with `edit` applied to its configuration; see [`decide`].
pub fn decide_with(dump: &Dump, edit: &Edit, to: SocketAddr, head: &[u8]) -> Result<Decision, Error> {
    decide_on(View::with(dump, edit), to, head)
}

fn decide_on(view: View<'_>, to: SocketAddr, head: &[u8]) -> Result<Decision, Error> {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let mut decision = Decision::default();
    decision.inner.is_connect = http::is_meant_for_a_proxy(head);
    let identity = view.dump.identity();
    decision.inner.is_gateway = identity.kind() == Some("router");
    if view.is_bypassed(to) {
        not_redirected(&mut decision, to, "an exclusion leaves it out of the redirect");
    } else if decision.inner.is_gateway {
        on_gateway(view, to, head, &mut decision)?;
    } else if let Some(entry) = inbound_entry(view, &identity, to)? {
        on_inbound(view, &entry, to, head, &mut decision)?;
    } else if let Some(why) = identity.bypass(to).filter(|_| !is_loopback(to.ip())) {
        not_redirected(&mut decision, to, &why);
    } else {
        walk(view, to, head, &mut decision)?;
    }
    decision.judge();
    Ok(decision)
}

/// A gateway listens itself: no redirect, and the connection comes from its client.
fn on_gateway(view: View<'_>, to: SocketAddr, head: &[u8], decision: &mut Decision) -> Result<(), Error> {
    decision.step("The dump is of a gateway (node id router~), which listens itself: nothing is redirected.");
    let (place, Some(found)) = look_up(view, to)? else { return Err(Error::NoEntry(to)) };
    decision.inner.place = place;
    decision.step(format!("Listener {} takes port {}.", found.head.label(), to.port()));
    on_listener(view, &[], &found.listener, to, head, decision)
}

/// The dialed address is the pod's own: from outside, the connection enters by the inbound listener.
///
/// Source: istio `pilot/pkg/networking/core/listener_inbound.go` (`virtualInbound`, chains by `destination_port`).
fn on_inbound(
    view: View<'_>,
    entry: &Found,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
    decision.inner.is_inbound = true;
    decision.inner.place = Place::Entry;
    decision.step(format!(
        "The dump is of the pod that {to} belongs to: a connection from outside comes in by the inbound listener {}.",
        entry.head.label()
    ));
    on_listener(view, &[], &entry.listener, to, head, decision)
}

/// The listener for connections from outside, where `to` is the pod's own address. What dials the redirect's own port is
/// not redirected again.
fn inbound_entry(view: View<'_>, identity: &Identity, to: SocketAddr) -> Result<Option<Found>, Error> {
    if !identity.is_own(to.ip()) || view.dump.redirect_ports.contains(&to.port()) {
        return Ok(None);
    }
    match view.listener(|head, _| head.use_original_dst() && head.is_inbound())? {
        Some(entry) => Ok(Some(entry)),
        None => view.original_dst_listener(true),
    }
}

fn walk(view: View<'_>, to: SocketAddr, head: &[u8], decision: &mut Decision) -> Result<(), Error> {
    // istio-init leaves loopback alone; then a listener that the kernel holds may still be dialed directly.
    if is_loopback(to.ip()) {
        let Some(direct) = view.listener(|head, bind| head.binds_to_port() && accepts(bind, to))? else {
            not_redirected(
                decision,
                to,
                "iptables leaves loopback addresses alone, and no listener is there",
            );
            return Ok(());
        };
        decision.step(format!("The app dials {to}, where Envoy itself listens."));
        decision.inner.place = Place::Exact;
        return on_listener(view, &[], &direct.listener, to, head, decision);
    }
    // Several listeners may take redirected connections; the redirect's own port decides between them.
    let ports = &view.dump.redirect_ports;
    let is_entry = |head: &ListenerHead| head.use_original_dst() && !head.is_inbound();
    let entry = match view.listener(|head, bind| is_entry(head) && ports.contains(&bind.port))? {
        Some(entry) => Some(entry),
        None => view.listener(|head, _| is_entry(head))?,
    };
    let redirected = |decision: &mut Decision, entry: &Found| {
        decision.step(format!(
            "The app dials {to}; iptables redirects it to Envoy's listener {}.",
            entry.head.label()
        ));
    };
    if entry.is_none()
        && let Some(keeper) = view.original_dst_listener(false)?
    {
        redirected(decision, &keeper);
        decision.inner.place = Place::Entry;
        return on_listener(view, &[], &keeper.listener, to, head, decision);
    }
    let (place, chosen) = look_up(view, to)?;
    let entry_filters = entry.as_ref().map_or(Vec::new(), |entry| entry.listener.filters.clone());
    match &entry {
        Some(entry) => {
            redirected(decision, entry);
            decision.caveats(&entry.listener.unread);
        }
        None => decision.caveat("the dump has no listener that redirected connections enter by"),
    }
    let (place, found) = match (chosen, entry) {
        (Some(chosen), entry) => {
            let is_entry = entry.is_some_and(|entry| entry.head.label() == chosen.head.label());
            let place = if is_entry { Place::Entry } else { place };
            (place, chosen)
        }
        (None, Some(entry)) => (Place::Entry, entry),
        (None, None) => return Err(Error::NoEntry(to)),
    };
    decision.inner.place = place;
    let label = found.head.label();
    decision.step(match place {
        Place::Exact => format!("Listener {label} has exactly that address."),
        Place::Wildcard => {
            format!("No listener has that address; {label} takes every address on port {}.", to.port())
        }
        Place::Entry | Place::NotRedirected => format!("No other listener fits, so {label} keeps it."),
    });
    let before: &[ListenerFilter] = if place == Place::Entry { &[] } else { &entry_filters };
    on_listener(view, before, &found.listener, to, head, decision)
}

/// Source: envoy `source/common/listener_manager/connection_handler_impl.cc`
/// `ConnectionHandlerImpl::getBalancedHandlerByAddress`: the exact address, else the wildcard of its family.
/// Names, `bind_to_port` and the traffic direction play no part in it.
fn look_up(view: View<'_>, to: SocketAddr) -> Result<(Place, Option<Found>), Error> {
    if let Some(exact) = view.listener(|_, bind| bind.ip == to.ip() && bind.port == to.port())? {
        return Ok((Place::Exact, Some(exact)));
    }
    let any = unspecified(to.ip());
    if let Some(wildcard) = view.listener(|_, bind| bind.ip == any && bind.port == to.port())? {
        return Ok((Place::Wildcard, Some(wildcard)));
    }
    // `[::]` with `ipv4_compat` was entered under 0.0.0.0 too.
    let compatible = view.listener(|_, bind| accepts(bind, to) && bind.ip.is_unspecified())?;
    Ok((Place::Wildcard, compatible))
}

fn accepts(bind: super::index::Bind, to: SocketAddr) -> bool {
    bind.port == to.port()
        && (bind.ip == to.ip()
            || bind.ip == unspecified(to.ip())
            || (bind.serves_ipv4 && bind.ip.is_unspecified() && to.is_ipv4()))
}

fn unspecified(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn not_redirected(decision: &mut Decision, to: SocketAddr, why: &str) {
    decision.step(format!("The app dials {to}; Envoy never sees it: {why}."));
    decision.outcome = Outcome::Tunnel;
    decision.inner.place = Place::NotRedirected;
}

/// What the listener filters know of a connection.
struct Seen {
    transport: String,
    server_name: String,
    applications: Vec<String>,
}

enum Detection {
    Done(Seen),
    Waits,
    Closes(&'static str),
}

fn on_listener(
    view: View<'_>,
    filters_before: &[ListenerFilter],
    listener: &Listener,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
    decision.listener.clone_from(&listener.name);
    decision.caveats(&listener.unread);
    let mut filters: Vec<&ListenerFilter> = Vec::new();
    for filter in filters_before.iter().chain(&listener.filters) {
        decision.caveats(&filter.unread);
        match filter.is_disabled(to.port()) {
            Some(true) => {}
            Some(false) => filters.push(filter),
            None => {
                decision.caveat("the rule that disables a listener filter is not evaluated here");
                filters.push(filter);
            }
        }
        if let ListenerFilterKind::Other(name) = &filter.kind {
            decision.caveat(format!("listener filter {name} is not evaluated here"));
        }
    }
    let seen = match detect(&filters, head) {
        Detection::Done(seen) => seen,
        Detection::Waits => {
            decision.step("Its listener filters wait for more bytes before anything is decided.");
            if listener.timeout.as_deref().is_none_or(|timeout| timeout != "0s") {
                let timeout = listener.timeout.as_deref().unwrap_or("15s");
                let then = if listener.continue_on_timeout { "goes on as not HTTP" } else { "is closed" };
                decision.caveat(format!("after {timeout} without them the connection {then}"));
            }
            return Ok(());
        }
        Detection::Closes(why) => {
            decision.step(format!("Envoy closes it: {why}."));
            decision.outcome = Outcome::Close;
            decision.details = Some(why.to_owned());
            return Ok(());
        }
    };
    let application = seen.applications.first().cloned();
    decision.step(format!(
        "First bytes: {}, {}.",
        if seen.transport == "tls" { "TLS" } else { "plaintext" },
        match (&application, filters.is_empty()) {
            (Some(application), _) => format!("detected as {application}"),
            (None, true) => "no inspector looks further".to_owned(),
            (None, false) => "not HTTP".to_owned(),
        }
    ));
    decision.detected = Some(Detected { transport: seen.transport.clone(), application });
    let (chain, by_match) = if let Some(matcher) = &listener.matcher {
        let Some(chain) = by_tree(matcher, listener, &seen, to, decision) else { return Ok(()) };
        (chain, true)
    } else {
        let Some(found) = by_conditions(listener, &seen, to, decision) else {
            // ActiveStreamListenerBase::newConnection: NR, "filter_chain_not_found".
            decision.step("No filter chain fits and there is no default one; Envoy closes the connection.");
            decision.outcome = Outcome::Close;
            decision.details = Some("filter_chain_not_found".to_owned());
            return Ok(());
        };
        found
    };
    decision.filter_chain.clone_from(&chain.name);
    decision.inner.made_from.clone_from(&chain.made_from);
    decision.step(describe_chain(chain, by_match));
    on_chain(view, chain, to, head, decision)
}

/// The chain whose conditions fit, or the default one.
fn by_conditions<'l>(
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
fn by_tree<'l>(
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
    let chain = name
        .and_then(|name| listener.chains.iter().find(|chain| chain.name.as_deref() == Some(name.as_str())));
    let chain = chain.or(listener.default_chain.as_ref());
    if chain.is_none() {
        decision.step("The match tree names no filter chain; Envoy closes the connection.");
        decision.outcome = Outcome::Close;
        decision.details = Some("filter_chain_not_found".to_owned());
    }
    chain
}

fn describe_chain(chain: &FilterChain, matched: bool) -> String {
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

/// Runs listener filters in order. Source: envoy `source/common/listener_manager/active_tcp_socket.cc`
/// `ActiveTcpSocket::continueFilterChain`; a redirected connection keeps what was detected before.
fn detect(filters: &[&ListenerFilter], head: &[u8]) -> Detection {
    let mut seen = Seen { transport: String::new(), server_name: String::new(), applications: Vec::new() };
    for filter in filters {
        match &filter.kind {
            ListenerFilterKind::TlsInspector => match tls_inspector::inspect(head) {
                Hello::Tls { server_name, protocols } => {
                    "tls".clone_into(&mut seen.transport);
                    seen.server_name = server_name;
                    seen.applications = protocols;
                }
                Hello::NotTls => {}
                Hello::Undecided => return Detection::Waits,
            },
            // `Filter::onAccept`: only if the transport is still plain.
            ListenerFilterKind::HttpInspector if seen.transport.is_empty() => {
                match http_inspector::sniff(head) {
                    Sniff::Protocol(protocol) => seen.applications = vec![protocol.to_owned()],
                    Sniff::NotHttp => {}
                    Sniff::Undecided => return Detection::Waits,
                    Sniff::TooLong => return Detection::Closes("its request line does not end"),
                }
            }
            // proxy_protocol.cc `Filter::onData`: a connection without the header is closed.
            ListenerFilterKind::ProxyProtocol { optional: false } if !has_proxy_header(head) => {
                return Detection::Closes("the listener wants a PROXY protocol header first");
            }
            ListenerFilterKind::HttpInspector
            | ListenerFilterKind::OriginalDst
            | ListenerFilterKind::ProxyProtocol { .. }
            | ListenerFilterKind::Passive
            | ListenerFilterKind::Other(_) => {}
        }
    }
    // ActiveTcpSocket::newConnection: "raw_buffer" where nothing was detected.
    if seen.transport.is_empty() {
        "raw_buffer".clone_into(&mut seen.transport);
    }
    Detection::Done(seen)
}

fn has_proxy_header(head: &[u8]) -> bool {
    head.starts_with(b"PROXY ") || head.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}

fn on_chain(
    view: View<'_>,
    chain: &FilterChain,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
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
    if let Socket::Other(name) = &chain.socket {
        decision.caveat(format!("transport socket {name} of the chain is not evaluated here"));
    }
    if chain.socket == Socket::Tls {
        decision.step("The chain expects TLS and ends it.");
        if tls_inspector::inspect(head) == Hello::NotTls {
            decision.outcome = Outcome::Close;
        } else {
            decision.caveat("what is inside the TLS is not known");
        }
        return Ok(());
    }
    match &chain.handler {
        Handler::Http(hcm) => http::on_hcm(view, hcm, to, head, decision),
        Handler::Tcp(proxy) => on_tcp_proxy(view, proxy, chain.cluster_override.as_ref(), to, head, decision),
        Handler::Answer(bytes) => {
            decision.step(format!("It sends {bytes:?} and closes the connection."));
            decision.outcome = Outcome::Answered;
            decision.details = Some("direct_response".to_owned());
            Ok(())
        }
        Handler::Other(name) => {
            decision.step(format!("{name} reads the bytes as its own protocol and ends the connection."));
            if !is_known_protocol(name) {
                decision.caveat(format!("network filter {name} is not evaluated here"));
            }
            decision.outcome = Outcome::Close;
            Ok(())
        }
        Handler::None => {
            // ActiveStreamListenerBase::newConnection: "closing connection: no filters".
            decision.step("Envoy closes a connection whose chain has no filters.");
            decision.outcome = Outcome::Close;
            Ok(())
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

/// Source: envoy `source/common/tcp_proxy/tcp_proxy.cc` `Filter::establishUpstreamConnection` (no such cluster: NC; no
/// host: UH; both end the connection without a byte) and `TunnelingConfigHelperImpl`.
fn on_tcp_proxy(
    view: View<'_>,
    proxy: &TcpProxy,
    cluster_override: Option<&String>,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
    decision.caveats(&proxy.unread);
    let name = match (cluster_override, proxy.clusters.as_slice()) {
        (Some(name), _) => {
            decision.step(format!("A filter before it puts cluster {name} in the place of its own."));
            name
        }
        (None, [name]) => name,
        (None, []) => {
            decision.caveat("the TCP proxy takes its cluster from a rule that is not evaluated here");
            decision.outcome = Outcome::Tunnel;
            return Ok(());
        }
        (None, [first, ..]) => {
            decision.caveat(format!(
                "one of the weighted clusters {} is drawn by lot",
                proxy.clusters.join(", ")
            ));
            first
        }
    };
    decision.cluster = Some(name.clone());
    let Some(cluster) = view.cluster(name, proxy.subset.as_ref())? else {
        if view.knows_clusters() {
            decision.step(format!("Cluster {name} does not exist; Envoy closes the connection."));
            decision.outcome = Outcome::Close;
        } else {
            decision.caveat(format!("the dump has no clusters, so cluster {name} is taken to exist"));
            decision.outcome = Outcome::Tunnel;
        }
        return Ok(());
    };
    decision.caveats(&cluster.unread);
    match cluster.hosts {
        Hosts::None | Hosts::NoneInSubset => {
            let which = if cluster.hosts == Hosts::None { "" } else { " with the labels that are asked for" };
            decision.step(format!(
                "Cluster {name} has no endpoint{which}; Envoy closes the connection without a byte."
            ));
            decision.inner.no_host = true;
            decision.outcome = Outcome::Close;
            return Ok(());
        }
        Hosts::Unknown => decision.caveat(format!("the dump does not show the hosts of cluster {name}")),
        Hosts::Dialed | Hosts::Some => {}
    }
    if let Some(internal) = &cluster.internal_listener {
        return on_internal_listener(view, internal, to, head, decision);
    }
    decision.outcome = Outcome::Tunnel;
    match cluster.tls {
        Tls::Yes => decision.inner.wraps_tls = true,
        Tls::Perhaps => decision.caveat(format!("Envoy may speak TLS to hosts of cluster {name}")),
        Tls::No | Tls::Mesh => {}
    }
    if let Some(host) = &proxy.tunnels_to {
        decision.caveat(format!("Envoy opens a tunnel of its own to {host} and sends the bytes inside it"));
    }
    if cluster.sends_proxy_header {
        decision
            .note(format!("Envoy sends a PROXY protocol header to cluster {name} before the app's bytes"));
    }
    // istiod sets the largest number where no DestinationRule does.
    if let Some(limit) = cluster.max_connections.filter(|limit| *limit < 1024) {
        decision.note(format!(
            "cluster {name} has a limit of {limit} connection{} at once; Envoy closes further ones without a byte (UO)",
            if limit == 1 { "" } else { "s" }
        ));
    }
    let elsewhere = elsewhere(&cluster, to, decision.inner.place, decision.inner.is_inbound);
    let how = match (decision.inner.wraps_tls, cluster.tls) {
        (true, _) => "wrapped in TLS",
        (false, Tls::Mesh) => "in the mesh's own mTLS, which the proxy's sidecar takes off again,",
        (false, _) => "as they are",
    };
    let target = match (&elsewhere, cluster.hosts) {
        (Some(other), _) => format!("{other}, which is not the dialed {to}"),
        (None, Hosts::Dialed) => "the address that the app dialed".to_owned(),
        (None, _) => "one of its hosts".to_owned(),
    };
    decision.step(format!("Cluster {name} sends the bytes {how} to {target}."));
    if elsewhere.is_some() && !decision.inner.wraps_tls {
        decision.outcome = Outcome::Elsewhere;
    }
    decision.sent_to = elsewhere;
    Ok(())
}

/// Where the bytes go, where that is neither the dialed address nor an endpoint of the dialed service.
///
/// A listener on exactly the dialed address is that of its service, whose cluster holds the service's endpoints.
fn elsewhere(cluster: &Cluster, to: SocketAddr, place: Place, is_inbound: bool) -> Option<String> {
    if let Some(port) = cluster.port_override.filter(|port| *port != to.port()) {
        return Some(SocketAddr::new(to.ip(), port).to_string());
    }
    let is_its_service = is_inbound || matches!(place, Place::Exact | Place::NotRedirected);
    if cluster.dials_original
        || is_its_service
        || cluster.addresses.is_empty()
        || cluster.addresses.contains(&to)
    {
        return None;
    }
    let first: Vec<String> = cluster.addresses.iter().take(3).map(ToString::to_string).collect();
    let more = cluster.addresses.len().saturating_sub(first.len());
    Some(if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) })
}

/// A cluster may lead back into the same Envoy.
fn on_internal_listener(
    view: View<'_>,
    name: &str,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
    let listener = view.internal_listener(name)?;
    let Some(listener) = listener.filter(|_| decision.inner.depth < MAX_DEPTH) else {
        decision.caveat(format!("internal listener {name} is not in the dump"));
        decision.outcome = Outcome::Tunnel;
        return Ok(());
    };
    decision.inner.depth += 1;
    decision.step(format!("Its host is the internal listener {name} of the same Envoy."));
    on_listener(view, &[], &listener, to, head, decision)
}

/// Internal listeners that lead to each other are followed this far.
const MAX_DEPTH: u8 = 4;
