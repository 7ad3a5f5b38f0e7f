//! What a dump says of entries that are not in use as istiod last sent them: updates that Envoy refused, and listeners and
//! clusters that still wait for a part of theirs (warming).
//!
//! Source: envoy `api/envoy/admin/v3/config_dump_shared.proto` (`UpdateFailureState`, `DynamicListener`).

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::decision::Decision;
use super::index::{Bind, Entry, ErrorState, ListenerHead};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    listeners: Vec<UnsettledListener>,
    refused_routes: HashMap<String, Refusal>,
    refused_clusters: HashMap<String, Refusal>,
    pub warming_clusters: HashSet<String>,
}

/// A listener with a newer version that is not in use.
#[derive(Debug)]
struct UnsettledListener {
    name: String,
    /// The addresses of the newer version.
    binds: Vec<Bind>,
    refusal: Option<Refusal>,
    is_active: bool,
}

/// An update that Envoy refused.
#[derive(Debug)]
struct Refusal {
    when: Option<String>,
    why: Option<String>,
}

impl Refusal {
    fn read(entry: &Entry<'_>) -> Option<(Self, Option<ListenerHead>)> {
        let state: ErrorState<'_> = serde_json::from_str(entry.error_state.0?).ok()?;
        let head = state.failed_configuration.0.and_then(|text| serde_json::from_str(text).ok());
        Some((Self { when: state.last_update_attempt.0, why: state.details.0 }, head))
    }

    /// ` at TIME (WHY)`.
    fn details(&self) -> String {
        let when = self.when.as_ref().map(|when| format!(" at {when}")).unwrap_or_default();
        let why = self.why.as_ref().map(|why| format!(" ({})", why.trim())).unwrap_or_default();
        format!("{when}{why}")
    }
}

impl Unsettled {
    pub(crate) fn listener(&mut self, entry: &Entry<'_>) {
        let refused = Refusal::read(entry);
        let warming = entry.warming_listener().and_then(|text| serde_json::from_str(text).ok());
        if refused.is_none() && warming.is_none() {
            return;
        }
        let (refusal, failed) = refused.unzip();
        let head: Option<ListenerHead> = warming.or(failed.flatten());
        let name =
            entry.name().or_else(|| head.as_ref().and_then(ListenerHead::name)).unwrap_or("(nameless)");
        self.listeners.push(UnsettledListener {
            name: name.to_owned(),
            binds: head.iter().flat_map(ListenerHead::binds).collect(),
            refusal,
            is_active: entry.is_active(),
        });
    }

    pub(crate) fn routes(&mut self, name: &str, entry: &Entry<'_>) {
        if let Some((refusal, _)) = Refusal::read(entry) {
            self.refused_routes.insert(name.to_owned(), refusal);
        }
    }

    pub(crate) fn cluster(&mut self, name: &str, entry: &Entry<'_>) {
        if let Some((refusal, _)) = Refusal::read(entry) {
            self.refused_clusters.insert(name.to_owned(), refusal);
        }
    }

    /// Says of a decision which newer configuration it is not about.
    pub(crate) fn caveats(&self, to: SocketAddr, decision: &mut Decision) {
        for listener in &self.listeners {
            let is_the_one = decision.listener.as_deref() == Some(listener.name.as_str());
            let would_take =
                |bind: &Bind| bind.port == to.port() && (bind.ip == to.ip() || bind.ip.is_unspecified());
            if is_the_one || listener.binds.iter().any(would_take) {
                decision.caveat(listener.caveat());
            }
        }
        let refused = |kind: &str, name: &Option<String>, all: &HashMap<String, Refusal>| {
            let name = name.as_ref()?;
            let refusal = all.get(name)?;
            Some(format!(
                "Envoy refused the newest version of {kind} {name}{}; this answer is about the one before it",
                refusal.details()
            ))
        };
        let routes = refused("route configuration", &decision.route_config, &self.refused_routes);
        let cluster = refused("cluster", &decision.cluster, &self.refused_clusters);
        decision.caveats(&routes.into_iter().chain(cluster).collect::<Vec<_>>());
    }
}

impl UnsettledListener {
    fn caveat(&self) -> String {
        let name = &self.name;
        match (&self.refusal, self.is_active) {
            (Some(refusal), true) => format!(
                "Envoy refused the newest version of listener {name}{}; this answer is about the one before it",
                refusal.details()
            ),
            (Some(refusal), false) => {
                format!("Envoy refused listener {name}{}, so it is not in use", refusal.details())
            }
            (None, true) => {
                format!("a newer version of listener {name} is warming; this answer is about the one in use")
            }
            (None, false) => format!("listener {name} is warming and not yet in use"),
        }
    }
}
