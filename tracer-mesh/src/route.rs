//! A route configuration: which virtual host a request belongs to and which of its routes it takes. Virtual hosts are
//! read one by one from the text, because one configuration can hold thousands of them and only one counts.
//!
//! Source: envoy `source/common/router/config_impl.cc` `RouteMatcher::findVirtualHost`,
//! `RouteMatcher::findWildcardVirtualHost`, `VirtualHostImpl::getRouteFromEntries`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Error;
use super::hcm::Upgrade;
use super::index::{Items, Lenient};
use super::json::Node;
use super::request::Request;
use super::route_match::{self, Match};

/// envoy.config.route.v3.RouteConfiguration, its virtual hosts not yet read.
#[derive(Deserialize)]
pub(crate) struct RouteConfig<'a> {
    #[serde(alias = "virtualHosts", borrow, default)]
    virtual_hosts: Items<'a>,
    #[serde(alias = "ignorePortInHostMatching", default)]
    ignore_port_in_host_matching: Lenient<bool>,
}

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
}

/// The route that was chosen.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub name: Option<String>,
    pub action: Action,
    pub upgrades: Vec<Upgrade>,
    /// `metadata.filter_metadata.istio.config`: the VirtualService that the route was made from.
    pub made_from: Option<String>,
    /// A condition of a route up to here that could not be judged (runtime fraction, metadata), in words.
    pub caveat: Option<String>,
}

/// What a route does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// To one of these clusters; `missing_status` is the answer if there is no such cluster.
    Clusters { names: Vec<String>, missing_status: u16 },
    /// To a cluster that the configuration alone does not name (`cluster_header`, a plugin).
    Unnamed,
    /// The router answers by itself: a direct response or a redirect.
    Answer(u16),
}

impl<'a> RouteConfig<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, Error> {
        serde_json::from_str(text)
            .map_err(|source| Error::Entry { entry: "route configuration".to_owned(), source })
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
        best.map(|(_, raw)| VirtualHost::read(raw)).transpose()
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
        Ok(Self { name: Node::of(&routes).field("name").str().unwrap_or_default().to_owned(), routes })
    }

    /// The first route that takes `request`, in configuration order.
    pub(crate) fn route(&self, request: &Request) -> Option<Route> {
        let node = Node::of(&self.routes);
        // `require_tls: ALL` redirects everything that did not come over TLS.
        if node.field("require_tls").str() == Some("ALL") {
            return Some(Route::answer(301));
        }
        let mut caveat = None;
        for route in node.field("routes").items() {
            let matching = route.field("match");
            // A request without a path can only take a `connect_matcher` route (`supportsPathlessHeaders`).
            if request.path.is_none() && !matching.field("connect_matcher").exists() {
                continue;
            }
            match route_match::judge(matching, request) {
                Match::Yes => return Some(Route::read(route, caveat)),
                Match::No => {}
                Match::Unknown(why) => {
                    let name = route.field("name").text().unwrap_or("without a name").to_owned();
                    caveat.get_or_insert(format!("route {name} depends on {why}, which no dump shows"));
                }
            }
        }
        None
    }
}

impl Route {
    fn answer(status: u16) -> Self {
        Self {
            name: None,
            action: Action::Answer(status),
            upgrades: Vec::new(),
            made_from: None,
            caveat: None,
        }
    }

    fn read(node: Node<'_>, caveat: Option<String>) -> Self {
        let forward = node.field("route");
        let metadata = node.field("metadata").field("filter_metadata").key("istio");
        Self {
            name: node.field("name").text().map(str::to_owned),
            action: Action::read(node),
            upgrades: Upgrade::read_all(forward.field("upgrade_configs")),
            made_from: metadata.key("config").text().map(str::to_owned),
            caveat,
        }
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
        let weighted = forward.field("weighted_clusters").field("clusters");
        let names: Vec<String> = match forward.field("cluster").text() {
            Some(cluster) => vec![cluster.to_owned()],
            None => weighted.items().filter_map(|c| c.field("name").text()).map(str::to_owned).collect(),
        };
        if names.is_empty() {
            return Self::Unnamed;
        }
        let missing_status = match forward.field("cluster_not_found_response_code").str() {
            Some("NOT_FOUND") => 404,
            Some("INTERNAL_SERVER_ERROR") => 500,
            _ => 503,
        };
        Self::Clusters { names, missing_status }
    }
}

fn status(node: Node<'_>, default: u16) -> u16 {
    node.integer().and_then(|number| u16::try_from(number).ok()).unwrap_or(default)
}
