//! A candidate that a user means to apply, laid over a dump: what istiod would change in the sidecar for it, as far as that
//! touches one connection. What it cannot lay over is an error or a caveat, never left out in silence.
//!
//! Source: istio `pilot/pkg/networking/core/listener.go` (`buildSidecarOutboundListeners`: an address of a TCP port has a
//! listener of its own, a port without addresses one for all; of two declarations the older one counts),
//! `pilot/pkg/model/sidecar.go` (`Sidecar`), `pilot/pkg/model/destination_rule.go`.

mod policy;
mod service_entry;

use std::net::SocketAddr;

use serde_json::Value;

use super::cluster::Cluster;
use super::decision::Decision;
use super::dump::Dump;
use super::json::Node;
use super::origin::{self, Declared, Origin, Origins};
use super::overlay::Edit;
use super::{Error, simulated_config};

/// What candidates change for one connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tryout {
    /// The change of the sidecar's configuration.
    pub edit: Edit,
    /// What the laying over leaves open, a sentence each.
    pub caveats: Vec<String>,
    /// Why a part of a candidate changes nothing, a sentence each.
    pub notes: Vec<String>,
}

/// Why a candidate cannot be laid over a dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryError {
    /// Its kind is not modeled.
    #[error(
        "an object of kind {0} cannot be tried here: a ServiceEntry, Service, DestinationRule, Sidecar, and a pod's or \
         workload's annotations can"
    )]
    Kind(String),
    /// It has no kind, so it is a patch of an unknown object.
    #[error("it names no `kind` and sets no annotations of a pod template: give the whole object")]
    NoKind,
    /// A field of it is not modeled.
    #[error("{0}, which cannot be tried here")]
    Field(String),
    /// The dump cannot be read where it is needed.
    #[error(transparent)]
    Dump(#[from] Error),
}

/// Lays `objects` over the dump, for a connection to `to` about which the sidecar decides `decision` today.
pub fn try_objects(
    dump: &Dump,
    objects: &[Value],
    decision: &Decision,
    to: SocketAddr,
) -> Result<Tryout, TryError> {
    let origins = Origins::of(dump, decision)?;
    let mut trial = Trial { dump, decision, origins, to, result: Tryout::default() };
    for object in objects {
        trial.object(Node::of(object))?;
    }
    Ok(trial.result)
}

struct Trial<'a> {
    dump: &'a Dump,
    decision: &'a Decision,
    origins: Origins,
    to: SocketAddr,
    result: Tryout,
}

impl Trial<'_> {
    fn object(&mut self, object: Node<'_>) -> Result<(), TryError> {
        match object.key("kind").text() {
            Some("List") => object.key("items").items().try_for_each(|item| self.object(item)),
            Some("ServiceEntry") => self.service_entry(object),
            Some("Service") => self.service(object),
            Some("DestinationRule") => self.destination_rule(object),
            Some("Sidecar") => self.sidecar(object),
            Some("Pod") => self.annotations(object.key("metadata")),
            Some("Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job") => {
                self.annotations(object.key("spec").key("template").key("metadata"))
            }
            Some(kind) => Err(TryError::Kind(kind.to_owned())),
            None => {
                let template = object.key("spec").key("template").key("metadata");
                let own = object.key("metadata");
                match [template, own].into_iter().find(|metadata| metadata.key("annotations").exists()) {
                    Some(metadata) => self.annotations(metadata),
                    None => Err(TryError::NoKind),
                }
            }
        }
    }

    fn caveat(&mut self, sentence: impl Into<String>) {
        self.result.caveats.push(sentence.into());
    }

    fn note(&mut self, sentence: impl Into<String>) {
        self.result.notes.push(sentence.into());
    }

    /// Whether the app's namespace sees an object. Unknown is a caveat, and taken for yes.
    fn is_seen(&mut self, object: Node<'_>, label: &str) -> bool {
        let own = object.key("metadata").key("namespace").text().unwrap_or("default");
        let export = object.key("spec").key("exportTo").texts();
        if export.is_empty() || export.iter().any(|to| to == "*") {
            return true;
        }
        let Some(app) = self.dump.namespace() else {
            self.caveat(format!(
                "{label} is exported to some namespaces, and this dump does not name the app's"
            ));
            return true;
        };
        let seen = export.iter().any(|to| *to == app || (to == "." && own == app));
        if !seen {
            self.note(format!("{label} is not exported to the app's namespace {app}, so it changes nothing"));
        }
        seen
    }

    fn service(&mut self, object: Node<'_>) -> Result<(), TryError> {
        let metadata = object.key("metadata");
        let (Some(name), namespace) = (metadata.key("name").text(), metadata.key("namespace").text()) else {
            return Err(TryError::Field("the Service has no name".to_owned()));
        };
        let namespace = namespace.unwrap_or("default");
        let label = format!("Service {namespace}/{name}");
        let is_this = |origin: &Origin| {
            origin.kind == "Service"
                && origin.name.as_deref() == Some(name)
                && origin.namespace.as_deref() == Some(namespace)
        };
        let at = origin::service_at(self.dump, self.decision, self.to.ip())?.filter(is_this);
        let origin = at.clone().or_else(|| self.origins.list.iter().find(|origin| is_this(origin)).cloned());
        let Some(Origin { host: Some(host), port: Some(port), .. }) = origin else {
            self.note(format!(
                "{label} takes no part in the connection to {}, so it changes nothing here",
                self.to
            ));
            return Ok(());
        };
        let mut ports = object.key("spec").key("ports").items();
        let Some(declared) = ports.find(|declared| declared.key("port").port() == Some(port)) else {
            self.note(format!("{label} as given does not name port {port}, so it changes nothing here"));
            return Ok(());
        };
        let protocol = declared.key("appProtocol").text().or_else(|| {
            let name = declared.key("name").text()?;
            Some(name.split('-').next().unwrap_or(name))
        });
        match protocol.map(str::to_ascii_lowercase).as_deref() {
            Some("tcp") => {}
            Some(other) => return Err(TryError::Field(format!("{label} declares port {port} as `{other}`"))),
            None => return Err(TryError::Field(format!("{label} declares no protocol for port {port}"))),
        }
        let cluster = format!("outbound|{port}||{host}");
        let is_headless = match self.dump.cluster_entry(&cluster)? {
            Some(value) => Cluster::read(&value, None, None).dials_original,
            None => false,
        };
        let only = self.origins.total == 1 && self.origins.list.iter().all(is_this);
        let listener = self.decision.listener.clone();
        if at.is_some() || is_headless && only {
            if at.is_none() {
                self.result.edit.removed_listeners.extend(listener);
            }
            self.result.edit.listeners.append(&mut simulated_config::tcp_port(self.to, &cluster).listeners);
        } else if only && self.origins.declared == Declared::Http {
            let known = self.origins.list.first();
            if known.map(|own| origin::has_address(self.dump, self.decision, own)).transpose()? == Some(true)
            {
                self.result.edit.removed_listeners.extend(listener);
            } else {
                self.caveat(format!(
                    "{label} has no address in this dump, so its TCP port may take every address too"
                ));
            }
        } else {
            let others = self.origins.list.iter().filter(|origin| !is_this(origin)).map(Origin::label);
            let others: Vec<String> = others.take(3).collect();
            self.note(format!("other objects still make the listener: {}", others.join(", ")));
        }
        Ok(())
    }

    fn annotations(&mut self, metadata: Node<'_>) -> Result<(), TryError> {
        let annotations = metadata.key("annotations");
        let Some(members) = annotations.members() else { return Err(TryError::NoKind) };
        let before = self.dump.identity();
        let after = before.with_annotations(members);
        match (before.bypass(self.to), after.bypass(self.to)) {
            (None, Some(_)) => self.result.edit.bypassed.push(self.to),
            (Some(_), None) => {
                return Err(TryError::Field(
                    "the annotations bring the connection back to the sidecar".to_owned(),
                ));
            }
            _ => self.note(format!("the annotations do not change whether {} is redirected", self.to)),
        }
        Ok(())
    }
}
