//! What an HTTP connection manager does with the first request: the codec's own answers, the route, upgrades, and the
//! router. The order is Envoy's, and the first that applies wins.
//!
//! Source: envoy `source/common/http/conn_manager_impl.cc` `ConnectionManagerImpl::ActiveStream::decodeHeaders`,
//! `filter_manager.cc` `FilterManager::createFilterChain`, and source/common/router/router.cc `Filter::decodeHeaders`.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::cluster::{Cluster, Hosts, Tls};
use super::decision::{ConnectionOutcome, Decision};
use super::hcm::{Codec as CodecType, Hcm, Routes, Upgrade};
use super::http_filter::Effect;
use super::http_inspector::H2_PREFACE;
use super::json::Node;
use super::overlay::View;
use super::request::{self, Codec, Request};
use super::request_changes::{self, PathRefused};
use super::route::{Action, Route};
use super::route_lookup;
use super::{Error, h2};

/// Whether first bytes are those of a client that speaks to a forward proxy: a CONNECT, or an absolute-form target.
pub(crate) fn is_meant_for_a_proxy(head: &[u8]) -> bool {
    if head.starts_with(H2_PREFACE) {
        return matches!(h2::read(head), Codec::Request(request) if request.is_connect());
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    method == b"CONNECT"
        || (method.iter().all(u8::is_ascii_uppercase) && target.to_ascii_lowercase().starts_with(b"http://"))
}

pub(crate) fn on_hcm(
    view: View<'_>,
    hcm: &Hcm,
    to: SocketAddr,
    head: &[u8],
    decision: &mut Decision,
) -> Result<(), Error> {
    decision.caveats(&hcm.unread);
    match &hcm.routes {
        Routes::Named(name) => decision.route_config = Some(name.clone()),
        Routes::Inline(value) => {
            decision.route_config = Node::of(value).field("name").text().map(str::to_owned);
        }
        Routes::Scoped(_) | Routes::None => {}
    }
    // ConnectionManagerUtility::autoCreateCodec looks at the first bytes for `PRI * HTTP/2`; ALPN counts only where the
    // chain ends TLS itself, not what a listener filter saw.
    let speaks_h2 = match hcm.codec {
        CodecType::Auto => head.starts_with(b"PRI * HTTP/2"),
        CodecType::Http1 => false,
        CodecType::Http2 => true,
    };
    let read = if speaks_h2 { h2::read(head) } else { request::read_http1(head, hcm) };
    let request = match read {
        Codec::Request(request) => request,
        Codec::Reply { status, details } => {
            decision.step(format!("The HTTP codec refuses the request: {status}, {details}."));
            reply(decision, status, details);
            map_reply(hcm, decision);
            return Ok(());
        }
        Codec::Close => {
            decision.step("The bytes are not HTTP/2, which the chain expects; Envoy closes the connection.");
            decision.outcome = ConnectionOutcome::Close;
            return Ok(());
        }
        Codec::Pending => {
            decision.step("The request head is not whole; Envoy waits for the rest of it.");
            return Ok(());
        }
    };
    on_request(view, hcm, to, request, decision)?;
    map_reply(hcm, decision);
    Ok(())
}

/// `local_reply_config`: the first mapper that takes an answer of Envoy's own may give it another status.
///
/// Source: envoy `source/common/local_reply/local_reply.cc` `LocalReplyImpl::rewrite`.
fn map_reply(hcm: &Hcm, decision: &mut Decision) {
    let (ConnectionOutcome::LocalReply, Some(status)) = (decision.outcome, decision.status) else { return };
    for mapper in &hcm.reply_mappers {
        let mapper = Node::of(mapper);
        let comparison = mapper.field("filter").field("status_code_filter").field("comparison");
        if !comparison.exists() {
            decision.caveat("a rule that changes answers of Envoy's own is not evaluated here");
            continue;
        }
        let value = comparison.field("value").field("default_value").integer().unwrap_or(0);
        let fits = match comparison.field("op").str().unwrap_or("EQ") {
            "GE" => i64::from(status) >= value,
            "LE" => i64::from(status) <= value,
            "NE" => i64::from(status) != value,
            _ => i64::from(status) == value,
        };
        if fits {
            let other = mapper.field("status_code").integer().and_then(|status| u16::try_from(status).ok());
            if let Some(other) = other.filter(|other| *other != status) {
                decision.step(format!("local_reply_config makes a {other} of the {status}."));
                decision.status = Some(other);
            }
            return;
        }
    }
}

fn on_request(
    view: View<'_>,
    hcm: &Hcm,
    to: SocketAddr,
    mut request: Request,
    decision: &mut Decision,
) -> Result<(), Error> {
    decision.inner.is_connect = request.is_connect() || request.is_absolute_form;
    decision.inner.is_absolute_form = request.is_absolute_form;
    // HTTP/1.1 without Host.
    if request.authority.is_none() {
        decision.step("The request names no host.");
        reply(decision, 400, "missing_host_header");
        return Ok(());
    }
    if !request.is_connect() {
        match request.path.as_deref() {
            None | Some("") => {
                reply(decision, 404, "missing_path_rejected");
                return Ok(());
            }
            Some(path) if !path.starts_with('/') => {
                decision.step("The target is no path.");
                reply(decision, 404, "absolute_path_rejected");
                return Ok(());
            }
            Some(_) => {}
        }
    }
    if request.method == "QUERY" && request.header("content-type").is_none() {
        decision.step("A QUERY must say its content type.");
        reply(decision, 400, "query_missing_content_type");
        return Ok(());
    }
    if let Err(refused) = request_changes::normalize_path(&mut request, hcm) {
        match refused {
            PathRefused::Rejected => {
                decision.step("Envoy refuses a path with an escaped slash.");
                reply(decision, 400, "path_normalization_failed");
            }
            PathRefused::Redirected => {
                decision.step("Envoy redirects a path with an escaped slash.");
                reply(decision, 307, "path_normalization_failed");
            }
        }
        return Ok(());
    }
    let is_upgrade = has_connection_upgrade(&request);
    let upgrade = upgrade_kind(&request);
    let mut unread = Vec::new();
    request_changes::change_headers(&mut request, hcm, is_upgrade, &mut unread);
    decision.caveats(&unread);
    let ControlFlow::Continue(route) = route_lookup::find_route(view, hcm, to, &request, decision)? else {
        return Ok(());
    };
    if let Some(route) = &route {
        decision.inner.made_from.clone_from(&route.made_from);
        decision.route.clone_from(&route.name);
        decision.caveats(&route.caveats);
        if let Some(kind) = &upgrade {
            let Allowed { allowed, has_filters } = allowed_upgrade(hcm, route, kind);
            if !allowed {
                let name = route.name.as_deref().unwrap_or("without a name");
                decision
                    .step(format!("Route {name} takes it, but {kind} is not among the allowed upgrades."));
                reply(decision, 403, "upgrade_failed");
                return Ok(());
            }
            if has_filters {
                decision.caveat(format!(
                    "the upgrade {kind} has HTTP filters of its own, which are not evaluated here"
                ));
            }
        }
    }
    for filter in &hcm.filters {
        let name = &filter.name;
        match filter.effect(route.as_ref().and_then(|route| route.filter_config(name))) {
            Effect::Passes => {}
            Effect::Answers { status, details } => {
                decision.step(format!("HTTP filter {name} answers {status} by itself."));
                reply(decision, status, &details);
                return Ok(());
            }
            Effect::MayAnswer => {
                decision.step(format!("HTTP filter {name} runs before the router and may answer first."));
                decision.early_filters.push(name.clone());
            }
        }
    }
    if !hcm.has_router {
        decision.caveat("the chain has no router filter that the dump shows");
    }
    route_request(view, to, route.as_ref(), &request, decision)
}

/// A CONNECT counts as an upgrade of that name; otherwise it is the Upgrade header.
fn upgrade_kind(request: &Request) -> Option<String> {
    match request.header("upgrade") {
        Some(kind) if has_connection_upgrade(request) => Some(kind),
        _ => request.is_connect().then(|| "CONNECT".to_owned()),
    }
}

struct Allowed {
    allowed: bool,
    has_filters: bool,
}

/// `HttpConnectionManagerConfig::createUpgradeFilterChain`: the route's word counts before the listener's.
fn allowed_upgrade(hcm: &Hcm, route: &Route, kind: &str) -> Allowed {
    let find = |upgrades: &[Upgrade]| {
        upgrades.iter().find(|upgrade| upgrade.kind.eq_ignore_ascii_case(kind)).cloned()
    };
    let (by_route, by_hcm) = (find(&route.upgrades), find(&hcm.upgrades));
    let allowed = match (&by_route, &by_hcm) {
        (Some(upgrade), _) | (None, Some(upgrade)) => upgrade.enabled,
        (None, None) => false,
    };
    Allowed { allowed, has_filters: by_hcm.is_some_and(|upgrade| upgrade.has_filters) }
}

/// `Utility::isUpgrade`.
fn has_connection_upgrade(request: &Request) -> bool {
    request
        .header("connection")
        .is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
}

fn route_request(
    view: View<'_>,
    to: SocketAddr,
    route: Option<&Route>,
    request: &Request,
    decision: &mut Decision,
) -> Result<(), Error> {
    let Some(route) = route else {
        decision.step("The router has no route: Envoy answers 404 by itself.");
        reply(decision, 404, "route_not_found");
        return Ok(());
    };
    let (name, missing_status) = match &route.action {
        Action::Answer(status) => {
            decision.step(format!("The route answers {status} by itself."));
            reply(decision, *status, "direct_response");
            return Ok(());
        }
        Action::Unnamed => {
            decision.caveat("the route takes its cluster from the request or a plugin");
            decision.outcome = forwarded(route, request);
            return Ok(());
        }
        Action::Header { name: header, missing_status } => {
            if let Some(name) = request.header(header) {
                (name, *missing_status)
            } else {
                decision.step(format!("The route takes its cluster from header {header}, which is absent."));
                reply(decision, *missing_status, "cluster_not_found");
                return Ok(());
            }
        }
        Action::Clusters { names, missing_status } => {
            if names.len() > 1 {
                decision.caveat(format!("one of the weighted clusters {} is drawn by lot", names.join(", ")));
            }
            let Some(name) = names.first() else { return Ok(()) };
            (name.clone(), *missing_status)
        }
    };
    decision.cluster = Some(name.clone());
    match view.cluster(&name, route.subset.as_ref())? {
        None if view.knows_clusters() => {
            decision.step(format!("Cluster {name} does not exist."));
            reply(decision, missing_status, "cluster_not_found");
            return Ok(());
        }
        None => decision.caveat(format!("the dump has no clusters, so cluster {name} is taken to exist")),
        Some(cluster) => {
            decision.caveats(&cluster.unread);
            match cluster.hosts {
                Hosts::None | Hosts::NoneInSubset => {
                    decision.step(format!("Cluster {name} has no host."));
                    reply(decision, 503, "no_healthy_upstream");
                    return Ok(());
                }
                Hosts::Unknown => {
                    decision.caveat(format!("the dump does not show the hosts of cluster {name}"));
                }
                Hosts::Dialed | Hosts::Some => {}
            }
            if cluster.allows_no_request {
                decision.step(format!("The limits of cluster {name} allow no request (circuit_breakers)."));
                reply(decision, 503, "upstream_reset_before_response_started{overflow}");
                return Ok(());
            }
            decision.hosts = cluster.hosts_of(to);
            decision.inner.wraps_tls = cluster.tls == Tls::Yes;
            decision.inner.sends_proxy_header = cluster.sends_proxy_header;
            decision.caveats(resolved_later(&name, &cluster).as_slice());
        }
    }
    decision.outcome = forwarded(route, request);
    decision.step(if decision.outcome == ConnectionOutcome::Terminate {
        format!(
            "Envoy ends the CONNECT itself (connect_config): it answers 200 and sends what follows to {name}."
        )
    } else {
        format!("Envoy writes the request anew, as its own, to cluster {name}.")
    });
    Ok(())
}

/// What is not known of a cluster whose hosts are looked up by name.
pub(crate) fn resolved_later(name: &str, cluster: &Cluster) -> Option<String> {
    let hosts = (!cluster.names.is_empty()).then(|| cluster.names.join(", "))?;
    Some(format!(
        "cluster {name} has the addresses that Envoy finds for {hosts}, which the dump does not show; where it finds \
         none, the connection ends there"
    ))
}

/// `Filter::createConnPool`: `connect_config` makes an upstream of raw TCP.
fn forwarded(route: &Route, request: &Request) -> ConnectionOutcome {
    if request.is_connect() && route.terminates_connect() {
        ConnectionOutcome::Terminate
    } else {
        ConnectionOutcome::Forward
    }
}

fn reply(decision: &mut Decision, status: u16, details: &str) {
    decision.outcome = ConnectionOutcome::LocalReply;
    decision.status = Some(status);
    decision.details = Some(details.to_owned());
}
