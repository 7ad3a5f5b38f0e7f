//! A dump, and a change laid over it: the listeners and clusters that istiod would add or leave out after a fix. The dump
//! itself is never changed.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::Error;
use super::cluster::Cluster;
use super::dump::Dump;
use super::index::{Bind, ListenerHead};
use super::listener::{Listener, ListenerFilterKind};

/// A change to a configuration, as the resources that Envoy would be sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// envoy.config.listener.v3.Listener messages that are added; one of the same name is replaced.
    pub listeners: Vec<Value>,
    /// envoy.config.cluster.v3.Cluster messages that are added; one of the same name is replaced.
    pub clusters: Vec<Value>,
    /// Names of listeners that are removed.
    pub removed_listeners: Vec<String>,
    /// Envoy no longer sees connections to these addresses.
    pub bypassed: Vec<SocketAddr>,
}

/// A dump, with an edit or without.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub dump: &'a Dump,
    edit: Option<&'a Edit>,
}

/// A listener found by address.
pub(crate) struct Found {
    pub head: ListenerHead,
    pub listener: Listener,
}

impl<'a> View<'a> {
    pub(crate) fn of(dump: &'a Dump) -> Self {
        Self { dump, edit: None }
    }

    pub(crate) fn with(dump: &'a Dump, edit: &'a Edit) -> Self {
        Self { dump, edit: Some(edit) }
    }

    pub(crate) fn is_bypassed(&self, to: SocketAddr) -> bool {
        self.edit.is_some_and(|edit| edit.bypassed.contains(&to))
    }

    /// The first listener with an address that `wanted` accepts.
    pub(crate) fn listener(
        &self,
        wanted: impl Fn(&ListenerHead, Bind) -> bool,
    ) -> Result<Option<Found>, Error> {
        let accepts = |head: &ListenerHead| head.binds().any(|bind| wanted(head, bind));
        for value in self.edit.iter().flat_map(|edit| &edit.listeners) {
            if let Some(head) = head(value)
                && accepts(&head)
            {
                return Ok(Some(Found { head, listener: Listener::read(value) }));
            }
        }
        let hit = self.dump.listeners.iter().position(|(head, _)| !self.is_gone(head) && accepts(head));
        let Some(at) = hit else { return Ok(None) };
        let value = self.dump.listener_entry(at)?;
        Ok(head(&value).map(|head| Found { head, listener: Listener::read(&value) }))
    }

    /// The listener that receives redirected connections through a listener filter `original_dst`, as Consul and Open
    /// Service Mesh set it up: it keeps every connection, and looks for no other listener.
    pub(crate) fn original_dst_listener(&self, inbound: bool) -> Result<Option<Found>, Error> {
        for (at, (head, _)) in self.dump.listeners.iter().enumerate() {
            if head.is_inbound() != inbound || self.is_gone(head) {
                continue;
            }
            let value = self.dump.listener_entry(at)?;
            let listener = Listener::read(&value);
            if listener.filters.iter().any(|filter| filter.kind == ListenerFilterKind::OriginalDst)
                && let Some(head) = self::head(&value)
            {
                return Ok(Some(Found { head, listener }));
            }
        }
        Ok(None)
    }

    /// An internal listener, by name.
    pub(crate) fn internal_listener(&self, name: &str) -> Result<Option<Listener>, Error> {
        let hit = self.dump.listeners.iter().position(|(head, _)| head.name() == Some(name));
        hit.map(|at| Ok(Listener::read(&self.dump.listener_entry(at)?))).transpose()
    }

    fn is_gone(&self, head: &ListenerHead) -> bool {
        let Some((edit, name)) = self.edit.zip(head.name()) else { return false };
        edit.removed_listeners.iter().any(|removed| removed == name)
            || edit.listeners.iter().any(|value| value.get("name").and_then(Value::as_str) == Some(name))
    }

    /// A cluster by name. `None` if there is none; [`View::knows_clusters`] says whether that means anything.
    pub(crate) fn cluster(&self, name: &str, subset: Option<&Value>) -> Result<Option<Cluster>, Error> {
        let mut added = self.edit.iter().flat_map(|edit| &edit.clusters);
        if let Some(value) = added.find(|value| value.get("name").and_then(Value::as_str) == Some(name)) {
            return Ok(Some(Cluster::read(value, None, subset)));
        }
        let Some(cluster) = self.dump.cluster_entry(name)? else { return Ok(None) };
        let endpoints = self.dump.endpoints_entry(name)?;
        Ok(Some(Cluster::read(&cluster, endpoints.as_ref(), subset)))
    }

    pub(crate) fn knows_clusters(&self) -> bool {
        self.dump.has.clusters
    }
}

/// The head of a listener that is at hand as a tree.
fn head(value: &Value) -> Option<ListenerHead> {
    serde_json::from_str(&value.to_string()).ok()
}

/// Whether an address is one that iptables leaves alone (istio-init: `-o lo`, `-d 127.0.0.1/32`).
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
