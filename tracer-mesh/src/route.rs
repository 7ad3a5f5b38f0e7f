//! A route configuration: which virtual host a request belongs to and which of its routes it takes. Virtual hosts are
//! read one by one from the text, because one configuration can hold thousands of them and only one counts.
//!
//! Source: envoy `source/common/router/config_impl.cc` `RouteMatcher::findVirtualHost`,
//! `RouteMatcher::findWildcardVirtualHost`, `VirtualHostImpl::getRouteFromEntries`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::hcm::Upgrade;
use super::index::{Items, Lenient};
use super::json::{Extension, Node};
use super::matcher;
use super::request::Request;
use super::route_match::{self, Match};
use super::tcp_proxy::{subset, weighted};
use super::{Error, known_fields};

/// envoy.config.route.v3.RouteConfiguration, its virtual hosts not yet read.
#[derive(Deserialize)]
pub(crate) struct RouteConfig<'a> {
    #[serde(alias = "virtualHosts", borrow, default)]
    virtual_hosts: Items<'a>,
    #[serde(alias = "ignorePortInHostMatching", default)]
    ignore_port_in_host_matching: Lenient<bool>,
    /// Fields that are not understood.
    #[serde(skip)]
    pub(crate) unread: Vec<String>,
    /// Its `typed_per_filter_config`.
    #[serde(skip)]
    filter_configs: Option<Value>,
}

/// The members of a route configuration, for the look at their names.
#[derive(Deserialize)]
struct Members<'a>(#[serde(borrow)] std::collections::BTreeMap<Cow<'a, str>, &'a RawValue>);

/// What tells virtual hosts apart.
#[derive(Debug, Deserialize)]
pub(crate) struct VirtualHostHead {
    #[serde(default)]
    pub(crate) name: Lenient<String>,
    #[serde(default)]
    pub(crate) domains: Lenient<Vec<String>>,
}

/// The virtual host that was chosen, read whole.
#[derive(Debug)]
pub(crate) struct VirtualHost {
    pub name: String,
    routes: Value,
    /// `typed_per_filter_config` of the route configuration.
    filter_configs: Option<Value>,
}

/// The route that was chosen.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub name: Option<String>,
    pub action: Action,
    pub upgrades: Vec<Upgrade>,
    /// `metadata.filter_metadata.istio.config`: the VirtualService that the route was made from.
    pub made_from: Option<String>,
    /// What could not be judged or is not understood, of this route and of those before it.
    pub caveats: Vec<String>,
    /// `typed_per_filter_config` of the route, its virtual host and the route configuration; the first that has it counts.
    filter_configs: Vec<Value>,
    /// `metadata_match`: the labels that a host of the cluster must have.
    pub subset: Option<Value>,
}

/// What a route does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// To one of these clusters; `missing_status` is the answer if there is no such cluster.
    Clusters { names: Vec<String>, missing_status: u16 },
    /// To the cluster that this header of the request names.
    Header { name: String, missing_status: u16 },
    /// To a cluster that the configuration alone does not name (a plugin).
    Unnamed,
    /// The router answers by itself: a direct response or a redirect.
    Answer(u16),
}

impl<'a> RouteConfig<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, Error> {
        let entry = |source| Error::Entry { entry: "route configuration".to_owned(), source };
        let config: Self = serde_json::from_str(text).map_err(entry)?;
        let Members(members) = serde_json::from_str(text).map_err(entry)?;
        // Virtual hosts can be thousands, and are read one by one.
        let small = members.into_iter().filter(|(name, _)| name != "virtual_hosts" && name != "virtualHosts");
        let small: serde_json::Map<String, Value> = small
            .map(|(name, raw)| (name.into_owned(), serde_json::from_str(raw.get()).unwrap_or_default()))
            .collect();
        let small = Value::Object(small);
        let node = Node::of(&small);
        let unread = known_fields::ROUTE_CONFIG.unread(node);
        Ok(Self { unread, filter_configs: node.field("typed_per_filter_config").value().cloned(), ..config })
    }

    /// The heads of all virtual hosts, with their text.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (VirtualHostHead, &'a RawValue)> {
        self.virtual_hosts.0.iter().filter_map(|raw| Some((serde_json::from_str(raw.get()).ok()?, *raw)))
    }

    /// The one virtual host for `authority`; never a second one, even if none of its routes fits.
    pub(crate) fn virtual_host(&self, authority: Option<&str>) -> Result<Option<VirtualHost>, Error> {
        let mut best: Option<(Rank, &RawValue)> = None;
        let mut only_default = true;
        let host = authority.map(|authority| self.host(authority));
        for (head, raw) in self.heads() {
            for domain in head.domains.0.iter().flatten() {
                only_default &= domain == "*";
                let rank = host.as_deref().and_then(|host| Rank::of(domain, host));
                if let Some(rank) = rank
                    && best.as_ref().is_none_or(|(known, _)| rank > *known)
                {
                    best = Some((rank, raw));
                }
            }
        }
        // `findVirtualHost` looks at the host only if there is a choice; then a request without one has none.
        if host.is_none() && only_default {
            best = self.heads().next().map(|(_, raw)| (Rank::Default, raw));
        }
        let filter_configs = self.filter_configs.clone();
        best.map(|(_, raw)| Ok(VirtualHost { filter_configs, ..VirtualHost::read(raw)? })).transpose()
    }

    /// `ignore_port_in_host_matching` and lower case; `HeaderUtility::getPortStart` for the port.
    fn host<'h>(&self, authority: &'h str) -> Cow<'h, str> {
        let mut host = authority;
        if self.ignore_port_in_host_matching.0 == Some(true)
            && let Some(colon) = authority.rfind(':')
            && authority.rfind(']').is_none_or(|bracket| bracket < colon)
        {
            host = authority.get(..colon).unwrap_or(authority);
        }
        Cow::Owned(host.to_ascii_lowercase())
    }
}

/// How well a domain fits a host; a later variant is a better one, a longer wildcard better than a shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Default,
    Prefix(usize),
    Suffix(usize),
    Exact,
}

impl Rank {
    fn of(domain: &str, host: &str) -> Option<Self> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return Some(Self::Default);
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            // `*.foo.com` does not match `.foo.com`: the star stands for at least one character.
            return (host.len() > suffix.len() && host.ends_with(suffix))
                .then_some(Self::Suffix(suffix.len()));
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return (host.len() > prefix.len() && host.starts_with(prefix))
                .then_some(Self::Prefix(prefix.len()));
        }
        (domain == host).then_some(Self::Exact)
    }
}

impl VirtualHost {
    fn read(raw: &RawValue) -> Result<Self, Error> {
        let routes: Value = serde_json::from_str(raw.get())
            .map_err(|source| Error::Entry { entry: "virtual host".to_owned(), source })?;
        let name = Node::of(&routes).field("name").str().unwrap_or_default().to_owned();
        Ok(Self { name, routes, filter_configs: None })
    }

    /// The first route that takes `request`, in configuration order, with what could not be judged on the way there.
    pub(crate) fn route(&self, request: &Request) -> (Option<Route>, Vec<String>) {
        let node = Node::of(&self.routes);
        let mut caveats = known_fields::VIRTUAL_HOST.unread(node);
        // Redirects what did not come over TLS; EXTERNAL_ONLY spares only requests with x-envoy-internal.
        let over_tls = request.header("x-forwarded-proto").as_deref() == Some("https");
        match node.field("require_tls").str() {
            Some("ALL") if !over_tls => return (Some(Route::answer(301)), caveats),
            Some("EXTERNAL_ONLY") if !over_tls => {
                if request.header("x-forwarded-for").is_some() {
                    caveats
                        .push("whether the request counts as internal depends on x-forwarded-for".to_owned());
                }
                return (Some(Route::answer(301)), caveats);
            }
            _ => {}
        }
        let tree = node.field("matcher");
        if tree.exists() {
            return self.by_tree(tree, request, caveats);
        }
        for route in node.field("routes").items() {
            let matching = route.field("match");
            // A request without a path can only take a `connect_matcher` route (`supportsPathlessHeaders`).
            if request.path.is_none() && !matching.field("connect_matcher").exists() {
                continue;
            }
            let name = || route.field("name").text().unwrap_or("without a name").to_owned();
            match route_match::judge(matching, request) {
                Match::Yes => return (Some(self.chosen(route)), caveats),
                Match::No => {}
                Match::Unknown { why, likely } => {
                    caveats.push(format!("route {} {why}", name()));
                    if likely {
                        return (Some(self.chosen(route)), caveats);
                    }
                }
            }
            caveats.append(&mut known_fields::ROUTE_MATCH.unread(matching));
        }
        (None, caveats)
    }

    /// The route that the virtual host's match tree ends in.
    ///
    /// Source: envoy `source/common/router/config_impl.cc` `VirtualHostImpl::getRouteFromEntries` with `matcher_`.
    fn by_tree(
        &self,
        tree: Node<'_>,
        request: &Request,
        mut caveats: Vec<String>,
    ) -> (Option<Route>, Vec<String>) {
        let input = |extension: &Extension<'_>| match extension.message {
            "HttpRequestHeaderMatchInput" => Ok(request.header(
                &extension.config.field("header_name").str().unwrap_or_default().to_ascii_lowercase(),
            )),
            other => Err(format!("a match tree over {other}")),
        };
        let action = match matcher::evaluate(tree, &input) {
            Ok(action) => action,
            Err(what) => {
                caveats.push(format!(
                    "the virtual host chooses its route by {what}, which is not evaluated here"
                ));
                return (None, caveats);
            }
        };
        let Some(action) = action else { return (None, caveats) };
        if action.message != "Route" {
            caveats.push(format!("the match tree ends in a {}, which is not evaluated here", action.message));
            return (None, caveats);
        }
        // RouteMatchAction: the route's own match counts too.
        let fits = match route_match::judge(action.config.field("match"), request) {
            Match::Yes => true,
            Match::No => false,
            Match::Unknown { why, likely } => {
                caveats.push(format!("the route that the match tree ends in {why}"));
                likely
            }
        };
        (fits.then(|| self.chosen(action.config)), caveats)
    }

    fn chosen(&self, route: Node<'_>) -> Route {
        let mut route = Route::read(route, Node::of(&self.routes));
        route.filter_configs.extend(self.filter_configs.clone());
        route
    }
}

impl Route {
    fn answer(status: u16) -> Self {
        Self {
            name: None,
            action: Action::Answer(status),
            upgrades: Vec::new(),
            made_from: None,
            caveats: Vec::new(),
            filter_configs: Vec::new(),
            subset: None,
        }
    }

    fn read(node: Node<'_>, host: Node<'_>) -> Self {
        let forward = node.field("route");
        let mut caveats = known_fields::ROUTE.unread(node);
        // A weighted cluster may have filter configurations of its own.
        let has_more = forward
            .field("weighted_clusters")
            .field("clusters")
            .items()
            .any(|cluster| cluster.field("typed_per_filter_config").exists());
        if has_more {
            caveats.push("a weighted cluster configures filters, which is not evaluated here".to_owned());
        }
        let configs = [node, host].into_iter().filter_map(|at| at.field("typed_per_filter_config").value());
        let metadata = node.field("metadata").field("filter_metadata").key("istio");
        Self {
            name: node.field("name").text().map(str::to_owned),
            action: Action::read(node),
            upgrades: Upgrade::read_all(forward.field("upgrade_configs")),
            made_from: metadata.key("config").text().map(str::to_owned),
            caveats,
            filter_configs: configs.cloned().collect(),
            subset: subset(forward.field("metadata_match")),
        }
    }

    /// The configuration of a filter in the place of the listener's, from the most specific place.
    pub(crate) fn filter_config(&self, filter: &str) -> Option<&Value> {
        self.filter_configs.iter().find_map(|configs| configs.get(filter))
    }

    /// Whether the router ends a CONNECT itself instead of forwarding it (`connect_config`).
    pub(crate) fn terminates_connect(&self) -> bool {
        self.upgrades.iter().any(|upgrade| upgrade.terminates && upgrade.kind.eq_ignore_ascii_case("CONNECT"))
    }
}

impl Action {
    fn read(route: Node<'_>) -> Self {
        let direct = route.field("direct_response");
        if direct.exists() {
            return Self::Answer(status(direct.field("status"), 200));
        }
        let redirect = route.field("redirect");
        if redirect.exists() {
            return Self::Answer(match redirect.field("response_code").str() {
                Some("FOUND") => 302,
                Some("SEE_OTHER") => 303,
                Some("TEMPORARY_REDIRECT") => 307,
                Some("PERMANENT_REDIRECT") => 308,
                _ => 301,
            });
        }
        let forward = route.field("route");
        let missing_status = match forward.field("cluster_not_found_response_code").str() {
            Some("NOT_FOUND") => 404,
            Some("INTERNAL_SERVER_ERROR") => 500,
            _ => 503,
        };
        if let Some(name) = forward.field("cluster_header").text() {
            return Self::Header { name: name.to_ascii_lowercase(), missing_status };
        }
        let names = match forward.field("cluster").text() {
            Some(cluster) => vec![cluster.to_owned()],
            None => weighted(forward.field("weighted_clusters")),
        };
        if names.is_empty() { Self::Unnamed } else { Self::Clusters { names, missing_status } }
    }
}

fn status(node: Node<'_>, default: u16) -> u16 {
    node.integer().and_then(|number| u16::try_from(number).ok()).unwrap_or(default)
}
