//! The decision on one outbound connection, from the dialed address and the first bytes to the outcome: which
//! listener, what it detects, which chain, and what the chain does. Pure: no IO, no clock, no panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::chain_match::{self, Connection};
use super::cluster::{Hosts, Tls};
use super::decision::{Decision, Detected, Kind, Outcome, Place};
use super::dump::Dump;
use super::http;
use super::http_inspector::{self, Sniff};
use super::index::ListenerHead;
use super::listener::{FilterChain, Handler, Listener, ListenerFilter};
use super::overlay::{Found, View, is_loopback};
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
    if view.is_bypassed(to) {
        not_redirected(&mut decision, to, "an exclusion leaves it out of the redirect");
    } else {
        walk(view, to, head, &mut decision)?;
    }
    decision.judge();
    Ok(decision)
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
    let (place, chosen) = look_up(view, to)?;
    let entry_filters = entry.as_ref().map_or(Vec::new(), |entry| entry.listener.filters.clone());
    match &entry {
        Some(entry) => decision.step(format!(
            "The app dials {to}; iptables redirects it to Envoy's listener {}.",
            entry.head.label()
        )),
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
    let filters = filters_before.iter().chain(&listener.filters);
    let seen = match detect(filters, head) {
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
            return Ok(());
        }
    };
    let application = seen.applications.first().cloned();
    decision.step(format!(
        "First bytes: {}, {}.",
        if seen.transport == "tls" { "TLS" } else { "plaintext" },
        match (&application, listener.filters.is_empty() && filters_before.is_empty()) {
            (Some(application), _) => format!("detected as {application}"),
            (None, true) => "no inspector looks further".to_owned(),
            (None, false) => "not HTTP".to_owned(),
        }
    ));
    decision.detected = Some(Detected { transport: seen.transport.clone(), application });
    if listener.has_matcher {
        decision.caveat("the listener chooses its chain by a match tree, which is not evaluated here");
        decision.step("The listener chooses its chain by a match tree (waypoints and gateways do).");
        return Ok(());
    }
    let connection = Connection {
        destination: to,
        source: None,
        server_name: &seen.server_name,
        transport: &seen.transport,
        applications: &seen.applications,
    };
    let by_match = chain_match::find(listener.chains.iter().map(|chain| &chain.matches), &connection)
        .and_then(|index| listener.chains.get(index));
    let Some(chain) = by_match.or(listener.default_chain.as_ref()) else {
        // ActiveStreamListenerBase::newConnection: NR, "filter_chain_not_found".
        decision.step("No filter chain fits and there is no default one; Envoy closes the connection.");
        decision.outcome = Outcome::Close;
        decision.details = Some("filter_chain_not_found".to_owned());
        return Ok(());
    };
    decision.filter_chain.clone_from(&chain.name);
    decision.inner.made_from.clone_from(&chain.made_from);
    decision.step(describe_chain(chain, by_match.is_some()));
    on_chain(view, chain, head, decision)
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
        Handler::Other(name) => return format!("{which}{condition} takes it: {name}."),
        Handler::None => "no filter at all",
    };
    format!("{which}{condition} takes it: {handler}.")
}

/// Runs listener filters in order. Source: envoy `source/common/listener_manager/active_tcp_socket.cc`
/// `ActiveTcpSocket::continueFilterChain`; a redirected connection keeps what was detected before.
fn detect<'f>(filters: impl Iterator<Item = &'f ListenerFilter>, head: &[u8]) -> Detection {
    let mut seen = Seen { transport: String::new(), server_name: String::new(), applications: Vec::new() };
    for filter in filters {
        match filter {
            ListenerFilter::TlsInspector => match tls_inspector::inspect(head) {
                Hello::Tls { server_name, protocols } => {
                    "tls".clone_into(&mut seen.transport);
                    seen.server_name = server_name;
                    seen.applications = protocols;
                }
                Hello::NotTls => {}
                Hello::Undecided => return Detection::Waits,
            },
            // `Filter::onAccept`: only if the transport is still plain.
            ListenerFilter::HttpInspector if seen.transport.is_empty() => match http_inspector::sniff(head) {
                Sniff::Protocol(protocol) => seen.applications = vec![protocol.to_owned()],
                Sniff::NotHttp => {}
                Sniff::Undecided => return Detection::Waits,
                Sniff::TooLong => return Detection::Closes("its request line does not end"),
            },
            ListenerFilter::HttpInspector | ListenerFilter::Other(_) => {}
        }
    }
    // ActiveTcpSocket::newConnection: "raw_buffer" where nothing was detected.
    if seen.transport.is_empty() {
        "raw_buffer".clone_into(&mut seen.transport);
    }
    Detection::Done(seen)
}

fn on_chain(view: View<'_>, chain: &FilterChain, head: &[u8], decision: &mut Decision) -> Result<(), Error> {
    decision.kind = match &chain.handler {
        Handler::Http(_) => Kind::Http,
        Handler::Tcp(_) => Kind::Tcp,
        Handler::Other(_) => Kind::Other,
        Handler::None => Kind::None,
    };
    for filter in chain.before.iter().filter(|name| may_close(name)) {
        decision.caveat(format!("network filter {filter} may close the connection first"));
    }
    if chain.terminates_tls {
        decision.step("The chain expects TLS and ends it.");
        if tls_inspector::inspect(head) == Hello::NotTls {
            decision.outcome = Outcome::Close;
        } else {
            decision.caveat("what is inside the TLS is not known");
        }
        return Ok(());
    }
    match &chain.handler {
        Handler::Http(hcm) => http::on_hcm(view, hcm, head, decision),
        Handler::Tcp(proxy) => on_tcp_proxy(view, proxy, decision),
        Handler::Other(name) => {
            decision.step(format!("{name} reads the bytes as its own protocol and ends the connection."));
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
fn on_tcp_proxy(view: View<'_>, proxy: &TcpProxy, decision: &mut Decision) -> Result<(), Error> {
    let name = match proxy.clusters.as_slice() {
        [name] => name,
        [] => {
            decision.caveat("the TCP proxy takes its cluster from a rule that is not evaluated here");
            decision.outcome = Outcome::Tunnel;
            return Ok(());
        }
        [first, ..] => {
            decision.caveat(format!(
                "one of the weighted clusters {} is drawn by lot",
                proxy.clusters.join(", ")
            ));
            first
        }
    };
    decision.cluster = Some(name.clone());
    let Some(cluster) = view.cluster(name)? else {
        if view.knows_clusters() {
            decision.step(format!("Cluster {name} does not exist; Envoy closes the connection."));
            decision.outcome = Outcome::Close;
        } else {
            decision.caveat(format!("the dump has no clusters, so cluster {name} is taken to exist"));
            decision.outcome = Outcome::Tunnel;
        }
        return Ok(());
    };
    match cluster.hosts {
        Hosts::None => {
            decision.step(format!("Cluster {name} has no host; Envoy closes the connection without a byte."));
            decision.outcome = Outcome::Close;
            return Ok(());
        }
        Hosts::Unknown => decision.caveat(format!("the dump does not show the hosts of cluster {name}")),
        Hosts::Dialed | Hosts::Some => {}
    }
    decision.outcome = Outcome::Tunnel;
    match cluster.tls {
        Tls::Yes => decision.inner.wraps_tls = true,
        Tls::Perhaps => decision.caveat(format!("Envoy may speak TLS to hosts of cluster {name}")),
        Tls::No => {}
    }
    if let Some(host) = &proxy.tunnels_to {
        decision.caveat(format!("Envoy opens a tunnel of its own to {host} and sends the bytes inside it"));
    }
    let to = match cluster.hosts {
        Hosts::Dialed => "the address that the app dialed",
        Hosts::Some | Hosts::None | Hosts::Unknown => "one of its hosts",
    };
    let how = if decision.inner.wraps_tls { "wrapped in TLS" } else { "as they are" };
    decision.step(format!("Cluster {name} sends the bytes {how} to {to}."));
    Ok(())
}
