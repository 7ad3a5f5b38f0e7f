//! The objects that made the sidecar decide so: the Service, ServiceEntry, VirtualService or DestinationRule behind the
//! listener, the route or the cluster. Only what the dump proves is named.
//!
//! Source: istio pilot/pkg/networking/core/listener.go (which declarations make which listener), httproute.go (virtual
//! host names `host:port`), pilot/pkg/networking/util (`BuildConfigInfoMetadata`, `AddConfigInfoMetadata`: the
//! `istio.config` and `istio.services` metadata).

use std::collections::HashSet;
use std::net::IpAddr;

use serde::Serialize;

use super::Error;
use super::cluster::{Cluster, ServiceRef};
use super::decision::{ConnectionOutcome, Decision, Kind, Place};
use super::dump::Dump;
use super::route::RouteConfig;

/// An object at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// `Service`, `ServiceEntry`, `VirtualService` or `DestinationRule`.
    pub kind: &'static str,
    /// Its namespace, where the dump has it.
    pub namespace: Option<String>,
    /// Its name. A ServiceEntry's is in no dump; its `host` finds it.
    pub name: Option<String>,
    /// The port that it declares.
    pub port: Option<u16>,
    /// The service's host name.
    pub host: Option<String>,
}

/// All objects at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origins {
    pub list: Vec<Origin>,
    /// How many there are, of which `list` holds the first.
    pub total: usize,
    /// How the port came to be HTTP.
    pub declared: Declared,
}

/// What an HTTP listener was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Ports declared HTTP, of any number of services.
    Http,
    /// A port without a protocol: Envoy sniffs it.
    Nothing,
    /// The dump does not say: a Sidecar resource, an EnvoyFilter or mesh-wide settings leave no name.
    #[default]
    Unnamed,
}

/// How many origins are listed by name.
const LISTED: usize = 50;

/// Virtual hosts that istiod adds to every outbound HTTP port, and that belong to no object.
const CATCH_ALL: [&str; 3] = ["allow_any", "block_all", "allow_any_dynamic_dns"];

impl Origins {
    /// The objects behind `decision`.
    pub(crate) fn of(dump: &Dump, decision: &Decision) -> Result<Self, Error> {
        let mut origins = Self::default();
        if decision.kind == Kind::Http {
            origins = Self::of_http_listener(dump, decision)?;
        } else if decision.inner.wraps_tls
            || decision.outcome == ConnectionOutcome::Elsewhere
            || (decision.outcome == ConnectionOutcome::Close && decision.kind == Kind::Tcp)
        {
            origins = Self::of_cluster(dump, decision)?;
        }
        // A VirtualService only matters where its route or chain took the request.
        let answered = decision.details.as_deref() == Some("direct_response")
            || matches!(decision.outcome, ConnectionOutcome::Forward | ConnectionOutcome::Terminate)
            || decision.kind == Kind::Tcp;
        if answered && let Some(origin) = decision.inner.made_from.as_deref().and_then(from_config_path) {
            origins.push(origin);
        }
        Ok(origins)
    }

    fn push(&mut self, origin: Origin) {
        self.total += 1;
        if self.list.len() < LISTED && !self.list.contains(&origin) {
            self.list.push(origin);
        }
    }

    fn of_http_listener(dump: &Dump, decision: &Decision) -> Result<Self, Error> {
        let Some(name) = decision.route_config.as_deref() else { return Ok(Self::default()) };
        // A sniffed port of one service has routes of its own, named `host:port`.
        if let Some((host, port)) = host_and_port(name) {
            let service = find_service(dump, host, port)?;
            return Ok(Self {
                total: usize::from(service.is_some()),
                list: service.into_iter().collect(),
                declared: Declared::Nothing,
            });
        }
        let (Ok(port), Place::Wildcard) = (name.parse::<u16>(), decision.inner.place) else {
            return Ok(Self::default());
        };
        let Some(text) = dump.route_text(name) else { return Ok(Self::default()) };
        let config = RouteConfig::read(text)?;
        let sniffed = sniffed_route_names(dump);
        let mut origins = Self { declared: Declared::Http, ..Self::default() };
        for (head, _) in config.heads() {
            let Some(host_name) = head.name.0.filter(|name| !CATCH_ALL.contains(&name.as_str())) else {
                continue;
            };
            // The port's routes also list services whose own sniffed listener is elsewhere: they made no listener here.
            if sniffed.contains(host_name.as_str()) {
                continue;
            }
            let Some((host, host_port)) = host_and_port(&host_name).filter(|(_, p)| *p == port) else {
                continue;
            };
            if origins.list.len() >= LISTED {
                origins.total += 1;
            } else if let Some(service) = find_service(dump, host, host_port)? {
                origins.push(service);
            }
        }
        Ok(origins)
    }

    fn of_cluster(dump: &Dump, decision: &Decision) -> Result<Self, Error> {
        let mut origins = Self::default();
        let Some(name) = decision.cluster.as_deref() else { return Ok(origins) };
        let Some(value) = dump.cluster_entry(name)? else { return Ok(origins) };
        let cluster = Cluster::read(&value, None, None);
        if decision.inner.wraps_tls
            && let Some(rule) = cluster.made_from.as_deref().and_then(from_config_path)
        {
            origins.push(rule);
        }
        let port = outbound_cluster(name).map(|(port, _)| port);
        for service in &cluster.services {
            origins.push(from_service(service, port));
        }
        Ok(origins)
    }
}

/// The service that the dialed address belongs to: a virtual host of the port's routes lists it as a domain.
pub(crate) fn service_at(dump: &Dump, decision: &Decision, ip: IpAddr) -> Result<Option<Origin>, Error> {
    let Some(name) = decision.route_config.as_deref() else { return Ok(None) };
    if let Some((host, port)) = host_and_port(name) {
        return find_service(dump, host, port);
    }
    let Some(text) = dump.route_text(name) else { return Ok(None) };
    let domain = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    for (head, _) in RouteConfig::read(text)?.heads() {
        let is_address = |known: &String| {
            known.strip_prefix(&domain).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        if head.domains.0.iter().flatten().any(is_address)
            && let Some((host, port)) = head.name.0.as_deref().and_then(host_and_port)
        {
            return find_service(dump, host, port);
        }
    }
    Ok(None)
}

/// Whether a service has an address of its own: its virtual host lists one as a domain.
pub(crate) fn has_address(dump: &Dump, decision: &Decision, service: &Origin) -> Result<bool, Error> {
    let name = decision.route_config.as_deref();
    let (Some(text), Some(host), Some(port)) =
        (name.and_then(|name| dump.route_text(name)), &service.host, service.port)
    else {
        return Ok(false);
    };
    let wanted = format!("{host}:{port}");
    let is_address = |domain: &String| {
        let bare = domain.trim_start_matches('[').split(']').next().unwrap_or_default();
        bare.parse::<IpAddr>().is_ok()
            || domain.rsplit_once(':').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok())
    };
    let config = RouteConfig::read(text)?;
    let found = config.heads().find(|(head, _)| head.name.0.as_deref() == Some(wanted.as_str()));
    Ok(found.is_some_and(|(head, _)| head.domains.0.iter().flatten().any(is_address)))
}

/// A service by host and port: from its cluster's metadata, or from a Kubernetes host name where the dump has no
/// clusters. `None` where the dump has clusters but none for it: then it declared nothing.
fn find_service(dump: &Dump, host: &str, port: u16) -> Result<Option<Origin>, Error> {
    if !dump.has.clusters {
        let service = ServiceRef { host: host.to_owned(), name: None, namespace: None };
        return Ok(Some(from_service(&service, Some(port))));
    }
    let Some(value) = dump.cluster_entry(&format!("outbound|{port}||{host}"))? else { return Ok(None) };
    let cluster = Cluster::read(&value, None, None);
    let known = cluster.services.into_iter().find(|service| service.host == host);
    let service = known.unwrap_or_else(|| ServiceRef { host: host.to_owned(), name: None, namespace: None });
    Ok(Some(from_service(&service, Some(port))))
}

fn from_service(service: &ServiceRef, port: Option<u16>) -> Origin {
    let host = Some(service.host.clone());
    // `name.namespace.svc.domain` is Kubernetes'; anything else came from a ServiceEntry, whose metadata name is its host.
    let mut labels = service.host.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), Some("svc")) => Origin {
            kind: "Service",
            namespace: Some(service.namespace.clone().unwrap_or_else(|| namespace.to_owned())),
            name: Some(service.name.clone().unwrap_or_else(|| name.to_owned())),
            port,
            host,
        },
        _ => Origin { kind: "ServiceEntry", namespace: service.namespace.clone(), name: None, port, host },
    }
}

/// `/apis/networking.istio.io/v1/namespaces/NS/virtual-service/NAME`.
fn from_config_path(path: &str) -> Option<Origin> {
    let mut parts = path.rsplit('/');
    let (name, kind, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = match kind {
        "virtual-service" => "VirtualService",
        "destination-rule" => "DestinationRule",
        _ => return None,
    };
    Some(Origin {
        kind,
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        port: None,
        host: None,
    })
}

/// The port and host of `outbound|PORT|SUBSET|HOST`.
pub(crate) fn outbound_cluster(name: &str) -> Option<(u16, &str)> {
    let mut parts = name.splitn(4, '|');
    let is_outbound = parts.next() == Some("outbound");
    let port = parts.next()?.parse().ok()?;
    let host = parts.nth(1)?;
    is_outbound.then_some((port, host))
}

fn host_and_port(name: &str) -> Option<(&str, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// The names `host:port` of all route configurations that a listener uses.
///
/// It looks for the member in the listeners' text: inside a JSON string its quotes would be escaped.
fn sniffed_route_names(dump: &Dump) -> HashSet<String> {
    let mut names = HashSet::new();
    for text in dump.listener_texts() {
        for key in ["\"route_config_name\"", "\"routeConfigName\""] {
            for (at, _) in text.match_indices(key) {
                let rest = text.get(at + key.len()..).unwrap_or_default().trim_start();
                let Some(rest) = rest.strip_prefix(':') else { continue };
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                if let Some(Ok(name)) = values.next()
                    && host_and_port(&name).is_some()
                {
                    names.insert(name);
                }
            }
        }
    }
    names
}

impl Origin {
    /// `Service shop/web`, or a ServiceEntry by its host.
    pub fn label(&self) -> String {
        let name = self.name.as_deref().or(self.host.as_deref()).unwrap_or("(nameless)");
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(_)) => format!("{} {namespace}/{name}", self.kind),
            (Some(namespace), None) => format!("{} for {name} in {namespace}", self.kind),
            (None, Some(_)) => format!("{} {name}", self.kind),
            (None, None) => format!("{} for {name}", self.kind),
        }
    }
}
