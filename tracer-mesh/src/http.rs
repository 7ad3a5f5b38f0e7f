//! What an HTTP connection manager does with the first request: the codec's own answers, the route, upgrades, and the
//! router. The order is Envoy's, and the first that applies wins.
//!
//! Source: envoy `source/common/http/conn_manager_impl.cc` `ConnectionManagerImpl::ActiveStream::decodeHeaders`,
//! `filter_manager.cc` `FilterManager::createFilterChain`, and source/common/router/router.cc `Filter::decodeHeaders`.

use super::cluster::Hosts;
use super::decision::{Decision, Outcome};
use super::hcm::{Codec as CodecType, Hcm, Routes, Upgrade};
use super::http_inspector::H2_PREFACE;
use super::overlay::View;
use super::request::{self, Codec, Request};
use super::route::{Action, Route, RouteConfig};
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

pub(crate) fn on_hcm(view: View<'_>, hcm: &Hcm, head: &[u8], decision: &mut Decision) -> Result<(), Error> {
    decision.early_filters.clone_from(&hcm.early_filters);
    if let Routes::Named(name) = &hcm.routes {
        decision.route_config = Some(name.clone());
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
            return reply(decision, status, details);
        }
        Codec::Close => {
            decision.step("The bytes are not HTTP/2, which the chain expects; Envoy closes the connection.");
            decision.outcome = Outcome::Close;
            return Ok(());
        }
        Codec::Pending => {
            decision.step("The request head is not whole; Envoy waits for the rest of it.");
            return Ok(());
        }
    };
    on_request(view, hcm, &request, decision)
}

fn on_request(view: View<'_>, hcm: &Hcm, request: &Request, decision: &mut Decision) -> Result<(), Error> {
    decision.inner.is_connect = request.is_connect() || request.is_absolute_form;
    // HTTP/1.1 without Host.
    if request.authority.is_none() {
        decision.step("The request names no host.");
        return reply(decision, 400, "missing_host_header");
    }
    if !request.is_connect() {
        match request.path.as_deref() {
            None | Some("") => return reply(decision, 404, "missing_path_rejected"),
            Some(path) if !path.starts_with('/') => {
                decision.step("The target is no path.");
                return reply(decision, 404, "absolute_path_rejected");
            }
            Some(_) => {}
        }
    }
    if request.method == "QUERY" && request.header("content-type").is_none() {
        decision.step("A QUERY must say its content type.");
        return reply(decision, 400, "query_missing_content_type");
    }
    let route = find_route(view, hcm, request, decision)?;
    if let Some(route) = &route {
        decision.inner.made_from.clone_from(&route.made_from);
        decision.route.clone_from(&route.name);
        if let Some(caveat) = &route.caveat {
            decision.caveat(caveat.clone());
        }
        if let Some(refused) = refused_upgrade(hcm, route, request) {
            let name = route.name.as_deref().unwrap_or("without a name");
            decision.step(format!("Route {name} takes it, but {refused} is not among the allowed upgrades."));
            return reply(decision, 403, "upgrade_failed");
        }
    }
    for filter in &hcm.early_filters {
        decision.step(format!("HTTP filter {filter} runs before the router and may answer first."));
    }
    if !hcm.has_router {
        decision.caveat("the chain has no router filter that the dump shows");
    }
    route_request(view, route.as_ref(), request, decision)
}

/// `refreshCachedRoute`: the route configuration, then one virtual host, then its routes in order.
fn find_route(
    view: View<'_>,
    hcm: &Hcm,
    request: &Request,
    decision: &mut Decision,
) -> Result<Option<Route>, Error> {
    let text = match &hcm.routes {
        Routes::Named(name) => {
            if let Some(text) = view.dump.route_text(name) {
                text.to_owned()
            } else {
                // RdsRouteConfigProviderImpl starts with a NullConfigImpl, which has no route.
                if !view.dump.has.routes {
                    decision.caveat("the dump holds no route configurations");
                }
                decision.step(format!("Route configuration {name} is not there."));
                return Ok(None);
            }
        }
        Routes::Inline(value) => value.to_string(),
        Routes::Scoped => {
            decision.caveat("the routes are scoped by a header, which is not evaluated here");
            return Ok(None);
        }
        Routes::None => return Ok(None),
    };
    let config = RouteConfig::read(&text)?;
    let mut authority = request.authority.clone();
    if hcm.strips_port && !request.is_connect() {
        authority =
            authority.map(|host| host.rsplit_once(':').map_or(host.clone(), |(host, _)| host.to_owned()));
    }
    let Some(host) = config.virtual_host(authority.as_deref())? else {
        decision.step(format!(
            "No virtual host of the route configuration has a domain for {}.",
            authority.unwrap_or_default()
        ));
        return Ok(None);
    };
    decision.virtual_host = Some(host.name.clone());
    decision.step(format!(
        "Route configuration {}, virtual host {} for {}.",
        decision.route_config.as_deref().unwrap_or("(inline)"),
        host.name,
        authority.unwrap_or_default(),
    ));
    let route = host.route(request);
    match &route {
        Some(route) => {
            decision.step(format!(
                "Route {} takes the request.",
                route.name.as_deref().unwrap_or("without a name")
            ));
        }
        None if request.path.is_none() => decision
            .step("A CONNECT has no path, so only a connect_matcher route could take it, and there is none."),
        None => decision.step("None of its routes takes the request."),
    }
    Ok(route)
}

/// `HttpConnectionManagerConfig::createUpgradeFilterChain`: the name of the upgrade if it is refused.
fn refused_upgrade(hcm: &Hcm, route: &Route, request: &Request) -> Option<String> {
    // A CONNECT counts as an upgrade of that name; otherwise it is the Upgrade header.
    let kind = match request.header("upgrade") {
        Some(kind) if has_connection_upgrade(request) => kind,
        _ if request.is_connect() => "CONNECT".to_owned(),
        _ => return None,
    };
    let find = |upgrades: &[Upgrade]| {
        upgrades
            .iter()
            .find(|upgrade| upgrade.kind.eq_ignore_ascii_case(&kind))
            .map(|upgrade| upgrade.enabled)
    };
    let allowed = match find(&route.upgrades) {
        Some(by_route) => by_route,
        None => find(&hcm.upgrades) == Some(true),
    };
    (!allowed).then_some(kind)
}

/// `Utility::isUpgrade`.
fn has_connection_upgrade(request: &Request) -> bool {
    request
        .header("connection")
        .is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
}

fn route_request(
    view: View<'_>,
    route: Option<&Route>,
    request: &Request,
    decision: &mut Decision,
) -> Result<(), Error> {
    let Some(route) = route else {
        decision.step("The router has no route: Envoy answers 404 by itself.");
        return reply(decision, 404, "route_not_found");
    };
    let (names, missing_status) = match &route.action {
        Action::Answer(status) => {
            decision.step(format!("The route answers {status} by itself."));
            return reply(decision, *status, "direct_response");
        }
        Action::Unnamed => {
            decision.caveat("the route takes its cluster from the request or a plugin");
            decision.outcome = forwarded(route, request);
            return Ok(());
        }
        Action::Clusters { names, missing_status } => (names, *missing_status),
    };
    if names.len() > 1 {
        decision.caveat(format!("one of the weighted clusters {} is drawn by lot", names.join(", ")));
    }
    let Some(name) = names.first() else { return Ok(()) };
    decision.cluster = Some(name.clone());
    match view.cluster(name)? {
        None if view.knows_clusters() => {
            decision.step(format!("Cluster {name} does not exist."));
            return reply(decision, missing_status, "cluster_not_found");
        }
        None => decision.caveat(format!("the dump has no clusters, so cluster {name} is taken to exist")),
        Some(cluster) => match cluster.hosts {
            Hosts::None => {
                decision.step(format!("Cluster {name} has no host."));
                return reply(decision, 503, "no_healthy_upstream");
            }
            Hosts::Unknown => decision.caveat(format!("the dump does not show the hosts of cluster {name}")),
            Hosts::Dialed | Hosts::Some => {}
        },
    }
    decision.outcome = forwarded(route, request);
    decision.step(if decision.outcome == Outcome::Terminate {
        format!(
            "Envoy ends the CONNECT itself (connect_config): it answers 200 and sends what follows to {name}."
        )
    } else {
        format!("Envoy writes the request anew, as its own, to cluster {name}.")
    });
    Ok(())
}

/// `Filter::createConnPool`: `connect_config` makes an upstream of raw TCP.
fn forwarded(route: &Route, request: &Request) -> Outcome {
    if request.is_connect() && route.terminates_connect() { Outcome::Terminate } else { Outcome::Forward }
}

#[expect(clippy::unnecessary_wraps, reason = "it is the last word of each of its callers")]
fn reply(decision: &mut Decision, status: u16, details: &str) -> Result<(), Error> {
    decision.outcome = Outcome::LocalReply;
    decision.status = Some(status);
    decision.details = Some(details.to_owned());
    Ok(())
}
