//! Finds the route of a request: the route configuration, one virtual host of it, and the first route that fits.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use super::Error;
use super::decision::{ConnectionOutcome, Decision};
use super::hcm::{Hcm, Routes};
use super::json::Node;
use super::overlay::View;
use super::request::Request;
use super::request_changes;
use super::route::{Route, RouteConfig};

/// `refreshCachedRoute`: the route configuration, then one virtual host, then its routes in order. It breaks where
/// the dump lacks what decides; the outcome is then set.
pub(crate) fn find_route(
    view: View<'_>,
    hcm: &Hcm,
    to: SocketAddr,
    request: &Request,
    decision: &mut Decision,
) -> Result<ControlFlow<(), Option<Route>>, Error> {
    let text = match &hcm.routes {
        Routes::Named(name) => {
            // A listener is warming until its routes are there, so those of one in use are only missing from the dump.
            let Some(text) = view.dump.route_text(name) else {
                decision.caveat(if view.dump.has.routes {
                    format!("route configuration {name} is not in this dump")
                } else {
                    "the dump holds no route configurations".to_owned()
                });
                decision.step(format!(
                    "What it answers depends on route configuration {name}, which is not in this dump."
                ));
                decision.inner.routes_missing = true;
                decision.outcome = ConnectionOutcome::LocalReply;
                return Ok(ControlFlow::Break(()));
            };
            text.to_owned()
        }
        Routes::Inline(value) => value.to_string(),
        Routes::Scoped(value) => match scoped(view, Node::of(value), request, decision) {
            Some(text) => text,
            None => return Ok(ControlFlow::Continue(None)),
        },
        Routes::None => return Ok(ControlFlow::Continue(None)),
    };
    let config = RouteConfig::read(&text)?;
    decision.caveats(&config.unread);
    let authority = request
        .authority
        .as_deref()
        .map(|authority| request_changes::routed_host(authority, hcm, to, request.is_connect()));
    let Some(host) = config.virtual_host(authority.as_deref())? else {
        let authority = authority.unwrap_or_default();
        decision.step(format!("No virtual host of the route configuration has a domain for {authority}."));
        decision.inner.no_domain_for = Some(authority);
        return Ok(ControlFlow::Continue(None));
    };
    decision.virtual_host = Some(host.name.clone());
    decision.step(format!(
        "Route configuration {}, virtual host {} for {}.",
        decision.route_config.as_deref().unwrap_or("(inline)"),
        host.name,
        authority.unwrap_or_default(),
    ));
    let (route, caveats) = host.route(request);
    decision.caveats(&caveats);
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
    Ok(ControlFlow::Continue(route))
}

/// The route configuration of the scope whose key the request has.
///
/// Source: envoy `source/common/router/scoped_config_impl.cc` `HeaderValueExtractorImpl::computeFragment`.
fn scoped(view: View<'_>, scoped: Node<'_>, request: &Request, decision: &mut Decision) -> Option<String> {
    let list = scoped.field("scoped_route_configurations_list");
    let key: Option<Vec<String>> = scoped
        .field("scope_key_builder")
        .field("fragments")
        .items()
        .map(|fragment| key_fragment(fragment.field("header_value_extractor"), request))
        .collect();
    if !list.exists() {
        decision.caveat("the scopes of the routes come by discovery and are not evaluated here");
        return None;
    }
    let Some(key) = key else {
        decision.step("The request has no key of a scope.");
        return None;
    };
    let scope = list.field("scoped_route_configurations").items().find(|scope| {
        let fragments = scope.field("key").field("fragments");
        let own: Vec<&str> = fragments.items().filter_map(|part| part.field("string_key").str()).collect();
        own == key
    });
    let Some(scope) = scope else {
        decision.step(format!("No scope has the key {}.", key.join(", ")));
        return None;
    };
    decision.step(format!(
        "Scope {} has the key {}.",
        scope.field("name").str().unwrap_or_default(),
        key.join(", ")
    ));
    let inline = scope.field("route_configuration");
    let name = scope.field("route_configuration_name").text().or(inline.field("name").text());
    decision.route_config = name.map(str::to_owned);
    match inline.value() {
        Some(inline) => Some(inline.to_string()),
        None => name.and_then(|name| view.dump.route_text(name)).map(str::to_owned),
    }
}

fn key_fragment(extractor: Node<'_>, request: &Request) -> Option<String> {
    let header = request.header(&extractor.field("name").str()?.to_ascii_lowercase())?;
    let separator = extractor.field("element_separator").str().unwrap_or_default();
    let elements: Vec<&str> =
        if separator.is_empty() { vec![header.as_str()] } else { header.split(separator).collect() };
    let element = extractor.field("element");
    if !element.exists() {
        let index = usize::try_from(extractor.field("index").integer().unwrap_or(0)).ok()?;
        return elements.get(index).map(|element| (*element).to_owned());
    }
    let (separator, key) = (element.field("separator").str()?, element.field("key").str()?);
    elements.iter().find_map(|pair| {
        let (name, value) = pair.split_once(separator).unwrap_or((pair, ""));
        (name == key).then(|| value.to_owned())
    })
}
