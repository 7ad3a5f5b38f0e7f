//! An Envoy `/config_dump`, indexed but not parsed: the range in the text of each listener, route configuration, cluster
//! and endpoint list. A decision parses only the entries that it needs, so a dump of thousands of services costs little
//! more than its own text.

mod discovered;
mod subject;

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;

use super::Error;
use super::index::{DiscoveredFilter, Entry, ListenerHead, Section, Sections};
use super::json::message_name;
use super::redirect::Identity;
use super::unsettled::Unsettled;
use tracer_core::mesh_profile::DEFAULT;

pub use subject::Subject;

type Span = Range<usize>;

/// A configuration dump, loaded.
#[derive(Debug)]
pub struct Dump {
    text: String,
    pub(crate) listeners: Vec<(ListenerHead, Span)>,
    routes: HashMap<String, Span>,
    clusters: HashMap<String, Span>,
    endpoints: HashMap<String, Span>,
    /// Filters that came by extension discovery (ECDS).
    filters: HashMap<String, Span>,
    bootstrap: Option<Span>,
    /// Entries that are warming, and updates that Envoy refused.
    pub(crate) unsettled: Unsettled,
    /// When the newest of its listeners was changed.
    last_updated: Option<String>,
    /// The time at which the dump was taken, in seconds since 1970.
    taken_at: Option<i64>,
    /// The pod's namespace, where the dump does not say it.
    namespace: Option<String>,
    /// Ports that receive redirected connections.
    pub(crate) redirect_ports: Vec<u16>,
    pub(crate) has: Present,
    /// Entries that could not be read: of a wrong shape, or without what names them.
    pub unreadable: usize,
}

/// Which sections the dump holds: one fetched with `?resource=` holds one of them.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a section of its own")]
pub(crate) struct Present {
    pub listeners: bool,
    pub routes: bool,
    pub clusters: bool,
    pub filters: bool,
}

impl Dump {
    /// Indexes the JSON text of a dump: whole, of one resource (`?resource=dynamic_listeners`), or a bare list
    /// of resources as `istioctl proxy-config … -o json` prints it; snake case or camel case.
    ///
    /// Fails where the text is not JSON, or holds no listener at all (then it is no dump to explain from).
    pub fn load(text: String) -> Result<Self, Error> {
        let sections: Sections<'_> = serde_json::from_str(&text)?;
        let mut index = Index::default();
        for raw in sections.0 {
            index.section(&text, raw);
        }
        if !index.has.listeners {
            return Err(Error::NoListeners);
        }
        Ok(Self {
            text,
            listeners: index.listeners,
            routes: index.routes,
            clusters: index.clusters,
            endpoints: index.endpoints,
            filters: index.filters,
            bootstrap: index.bootstrap,
            unsettled: index.unsettled,
            last_updated: index.last_updated,
            taken_at: None,
            namespace: None,
            redirect_ports: vec![DEFAULT.outbound_port],
            has: index.has,
            unreadable: index.unreadable,
        })
    }

    /// Sets the time at which the dump was taken, in seconds since 1970, so that the age of its configuration is known.
    #[must_use]
    pub fn taken_at(mut self, seconds: i64) -> Self {
        self.taken_at = Some(seconds);
        self
    }

    /// Sets the pod's namespace for a dump that does not say it, such as one of parts. What the dump says wins.
    #[must_use]
    pub fn of_namespace(mut self, namespace: Option<String>) -> Self {
        self.namespace = namespace;
        self
    }

    /// The pod's namespace: the dump's own word, else what [`Dump::of_namespace`] was told.
    pub fn namespace(&self) -> Option<String> {
        self.identity().namespace().or_else(|| self.namespace.clone())
    }

    /// Sets the ports that receive redirected connections; an empty list keeps those of the default mesh.
    ///
    /// They decide only where several listeners take redirected connections (`use_original_dst`).
    #[must_use]
    pub fn redirected_to(mut self, ports: &[u16]) -> Self {
        if !ports.is_empty() {
            self.redirect_ports = ports.to_vec();
        }
        self
    }

    /// Indexes a dump from bytes that may not be text; see [`Dump::load`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::load(String::from_utf8(bytes).map_err(|error| error.utf8_error())?)
    }

    /// The length of the text, in bytes.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// The version of the listeners, as the control plane numbers them. `None`: the dump does not say.
    pub fn version(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Entry {
            active_state: Option<State>,
        }
        #[derive(serde::Deserialize)]
        struct State {
            version_info: Option<String>,
        }
        let version = |text| serde_json::from_str::<Entry>(text).ok()?.active_state?.version_info;
        self.listener_texts().find_map(version)
    }

    pub(crate) fn listener_entry(&self, at: usize) -> Result<Value, Error> {
        let (head, span) = self.listeners.get(at).ok_or(Error::NoListeners)?;
        let mut listener = self.parse(span, || format!("listener {}", head.label()))?;
        let text = self.text.get(span.clone()).unwrap_or_default();
        if text.contains("config_discovery") || text.contains("configDiscovery") {
            self.put_discovered_filters(&mut listener);
        }
        Ok(listener)
    }

    /// The text of each listener's entry, for a look at all of them.
    pub(crate) fn listener_texts(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().filter_map(|(_, span)| self.text.get(span.clone()))
    }

    pub(crate) fn route_text(&self, name: &str) -> Option<&str> {
        self.routes.get(name).and_then(|span| self.text.get(span.clone()))
    }

    pub(crate) fn cluster_entry(&self, name: &str) -> Result<Option<Value>, Error> {
        self.clusters.get(name).map(|span| self.parse(span, || format!("cluster {name}"))).transpose()
    }

    pub(crate) fn endpoints_entry(&self, name: &str) -> Result<Option<Value>, Error> {
        self.endpoints.get(name).map(|span| self.parse(span, || format!("endpoints of {name}"))).transpose()
    }

    /// The text of each endpoint list, with its cluster's name, for a look at all of them.
    pub(crate) fn endpoint_texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.endpoints.iter().filter_map(|(name, span)| Some((name.as_str(), self.text.get(span.clone())?)))
    }

    pub(crate) fn cluster_names(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// Whether its istiod labels the endpoints that have a sidecar (`tlsMode`), so that one without the label has none.
    pub(crate) fn labels_endpoints(&self) -> bool {
        self.identity().labels_endpoints() || self.text.contains("\"tlsMode\"")
    }

    /// Whether the rule at `path` (`/apis/…`) made clusters of other hosts than `host`.
    pub(crate) fn is_shared_rule(&self, path: &str, host: &str) -> bool {
        let quoted = format!("\"{path}\"");
        self.clusters.iter().any(|(name, span)| {
            super::origin::outbound_cluster(name).is_some_and(|(_, other)| other != host)
                && self.text.get(span.clone()).is_some_and(|text| text.contains(&quoted))
        })
    }

    /// Who the dump is from.
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.node())
    }

    /// The `bootstrap.node` object, where the dump holds the bootstrap.
    fn node(&self) -> Option<Value> {
        let text = self.text.get(self.bootstrap.clone()?)?;
        let bootstrap: super::index::Bootstrap<'_> = serde_json::from_str(text).ok()?;
        serde_json::from_str(bootstrap.node?.get()).ok()
    }

    fn parse(&self, span: &Span, what: impl FnOnce() -> String) -> Result<Value, Error> {
        let text = self.text.get(span.clone()).unwrap_or_default();
        serde_json::from_str(text).map_err(|source| Error::Entry { entry: what(), source })
    }
}

#[derive(Default)]
struct Index {
    listeners: Vec<(ListenerHead, Span)>,
    routes: HashMap<String, Span>,
    clusters: HashMap<String, Span>,
    endpoints: HashMap<String, Span>,
    filters: HashMap<String, Span>,
    bootstrap: Option<Span>,
    unsettled: Unsettled,
    last_updated: Option<String>,
    has: Present,
    unreadable: usize,
}

impl Index {
    /// One element of `configs`: a section (`ListenersConfigDump`), or one resource of a `?resource=` dump.
    ///
    /// The types are those of `envoy/admin/v3/config_dump.proto` and `config_dump_shared.proto`.
    fn section(&mut self, text: &str, raw: &RawValue) {
        let Ok(section) = serde_json::from_str::<Section<'_>>(raw.get()) else {
            self.unreadable += 1;
            return;
        };
        match section.kind.as_deref().map_or("", message_name) {
            "ListenersConfigDump" => {
                self.has.listeners = true;
                for entry in section
                    .static_listeners
                    .0
                    .into_iter()
                    .chain(section.dynamic_listeners.0)
                    .chain(section.dynamic_active_listeners.0)
                {
                    self.listener(text, entry);
                }
            }
            "RoutesConfigDump" => {
                self.has.routes = true;
                for entry in section.static_route_configs.0.into_iter().chain(section.dynamic_route_configs.0)
                {
                    self.route(text, entry);
                }
            }
            "ClustersConfigDump" => {
                self.has.clusters = true;
                for entry in section.static_clusters.0.into_iter().chain(section.dynamic_active_clusters.0) {
                    self.cluster(text, entry);
                }
                for entry in section.dynamic_warming_clusters.0 {
                    self.warming_cluster(entry);
                }
            }
            "EndpointsConfigDump" => {
                for entry in
                    section.static_endpoint_configs.0.into_iter().chain(section.dynamic_endpoint_configs.0)
                {
                    self.endpoint(text, entry);
                }
            }
            "EcdsConfigDump" => {
                self.has.filters = true;
                section.ecds_filters.0.into_iter().for_each(|entry| self.filter(text, entry));
            }
            "BootstrapConfigDump" => self.bootstrap = Some(span(text, raw.get())),
            "DynamicListener" | "StaticListener" | "Listener" => {
                self.has.listeners = true;
                self.listener(text, raw);
            }
            "DynamicRouteConfig" | "StaticRouteConfig" | "RouteConfiguration" => {
                self.has.routes = true;
                self.route(text, raw);
            }
            "DynamicCluster" | "StaticCluster" | "Cluster" => {
                self.has.clusters = true;
                self.cluster(text, raw);
            }
            "DynamicEndpointConfig" | "StaticEndpointConfig" | "ClusterLoadAssignment" => {
                self.endpoint(text, raw);
            }
            // istioctl prints bare resources: a listener is what has filter chains.
            "" if section.filter_chains.is_some() => {
                self.has.listeners = true;
                self.listener(text, raw);
            }
            // Secrets, scoped routes and what later versions add take no part in the decision.
            _ => {}
        }
    }

    fn listener(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        self.unsettled.listener(&entry);
        let Some((listener, last_updated)) = entry.listener() else {
            // Warming, draining and failed listeners are not in use: no `active_state`, at times no name either.
            return;
        };
        self.last_updated = self.last_updated.take().max(last_updated);
        match serde_json::from_str::<ListenerHead>(listener) {
            Ok(head) => self.listeners.push((head, span(text, listener))),
            Err(_) => self.unreadable += 1,
        }
    }

    fn route(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        let body = entry.route_config.0.unwrap_or(raw.get());
        // Static configurations are often nameless: inline ones of static listeners, which nothing looks up.
        if let Some(name) = self.name(body) {
            self.unsettled.routes(&name, &entry);
            self.routes.insert(name, span(text, body));
        }
    }

    fn filter(&mut self, text: &str, raw: &RawValue) {
        let entry: Option<DiscoveredFilter<'_>> = serde_json::from_str(raw.get()).ok();
        if let Some(body) = entry.and_then(|entry| entry.ecds_filter.0)
            && let Some(name) = self.name(body)
        {
            self.filters.insert(name, span(text, body));
        }
    }

    fn warming_cluster(&mut self, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        if let Some(name) = entry.cluster.0.and_then(|body| self.name(body)) {
            self.unsettled.warming_clusters.insert(name);
        }
    }

    fn cluster(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        let body = entry.cluster.0.unwrap_or(raw.get());
        if let Some(name) = self.name(body) {
            self.unsettled.cluster(&name, &entry);
            self.clusters.insert(name, span(text, body));
        }
    }

    fn endpoint(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        let body = entry.endpoint_config.0.unwrap_or(raw.get());
        if let Ok(head) = serde_json::from_str::<super::index::NameHead>(body)
            && let Some(name) = head.cluster_name.0
        {
            self.endpoints.insert(name, span(text, body));
        }
    }

    fn entry<'a>(&mut self, raw: &'a RawValue) -> Option<Entry<'a>> {
        let entry = Entry::read(raw);
        if entry.is_none() {
            self.unreadable += 1;
        }
        entry
    }

    fn name(&mut self, body: &str) -> Option<String> {
        if let Ok(head) = serde_json::from_str::<super::index::NameHead>(body) {
            head.name.0.filter(|name| !name.is_empty())
        } else {
            self.unreadable += 1;
            None
        }
    }
}

/// Where `part`, which was cut out of `text`, lies in it.
fn span(text: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}
