//! An Envoy `/config_dump`, indexed but not parsed: the range in the text of each listener, route configuration, cluster
//! and endpoint list. A decision parses only the entries that it needs, so a dump of thousands of services costs little
//! more than its own text.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;
use serde_json::value::RawValue;

use super::Error;
use super::index::{Entry, ListenerHead, Section, Sections};
use super::json::message_name;
use super::redirect::Identity;
use tracer_core::mesh_profile::DEFAULT;

type Span = Range<usize>;

/// A configuration dump, loaded.
#[derive(Debug)]
pub struct Dump {
    text: String,
    pub(crate) listeners: Vec<(ListenerHead, Span)>,
    routes: HashMap<String, Span>,
    clusters: HashMap<String, Span>,
    endpoints: HashMap<String, Span>,
    bootstrap: Option<Span>,
    /// Ports that receive redirected connections.
    pub(crate) redirect_ports: Vec<u16>,
    pub(crate) has: Present,
    /// Entries that could not be read: of a wrong shape, or without what names them.
    pub unreadable: usize,
}

/// Which sections the dump holds: one fetched with `?resource=` holds one of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Present {
    pub listeners: bool,
    pub routes: bool,
    pub clusters: bool,
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
        let Index { listeners, routes, clusters, endpoints, bootstrap, has, unreadable } = index;
        if !has.listeners {
            return Err(Error::NoListeners);
        }
        Ok(Self {
            text,
            listeners,
            routes,
            clusters,
            endpoints,
            bootstrap,
            redirect_ports: vec![DEFAULT.outbound_port],
            has,
            unreadable,
        })
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
        self.parse(span, || format!("listener {}", head.label()))
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
    bootstrap: Option<Span>,
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
            }
            "EndpointsConfigDump" => {
                for entry in
                    section.static_endpoint_configs.0.into_iter().chain(section.dynamic_endpoint_configs.0)
                {
                    self.endpoint(text, entry);
                }
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
            // Secrets, scoped routes, ECDS filters and what later versions add take no part in the decision.
            _ => {}
        }
    }

    fn listener(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        let Some(listener) = entry.listener() else {
            // Warming, draining and failed listeners are not in use: no `active_state`, at times no name either.
            return;
        };
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
            self.routes.insert(name, span(text, body));
        }
    }

    fn cluster(&mut self, text: &str, raw: &RawValue) {
        let Some(entry) = self.entry(raw) else { return };
        let body = entry.cluster.0.unwrap_or(raw.get());
        if let Some(name) = self.name(body) {
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
