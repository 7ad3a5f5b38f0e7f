//! A DestinationRule and a Sidecar laid over a dump.

use super::{Trial, TryError};
use crate::cluster::{Cluster, Tls};
use crate::json::Node;
use crate::origin::{Origin, outbound_cluster};
use crate::simulated_config;

impl Trial<'_> {
    pub(super) fn destination_rule(&mut self, object: Node<'_>) -> Result<(), TryError> {
        let spec = object.key("spec");
        let Some(host) = spec.key("host").text() else {
            return Err(TryError::Field("the DestinationRule has no host".to_owned()));
        };
        let label = format!("the DestinationRule for {host}");
        if !self.is_seen(object, &label) {
            return Ok(());
        }
        let namespace = object.key("metadata").key("namespace").text().unwrap_or("default");
        let cluster = self.decision.cluster.as_deref().unwrap_or_default();
        let target = outbound_cluster(cluster).filter(|(_, known)| is_rule_for(host, namespace, known));
        let Some((port, _)) = target else {
            self.note(format!("{label} is not for the cluster {cluster}, so it changes nothing here"));
            return Ok(());
        };
        let policy = spec.key("trafficPolicy");
        let for_port = policy
            .key("portLevelSettings")
            .items()
            .find(|settings| settings.key("port").key("number").port() == Some(port));
        let tls = match for_port {
            Some(settings) => settings.key("tls"),
            None => policy.key("tls"),
        };
        let Some(value) = self.dump.cluster_entry(cluster)? else {
            self.caveat(format!(
                "cluster {cluster} is not in this dump, so what {label} makes of it is not known"
            ));
            return Ok(());
        };
        let endpoints = self.dump.endpoints_entry(cluster)?;
        let current = Cluster::read(&value, endpoints.as_ref(), None);
        if current.made_from.as_deref().is_some_and(|made| {
            object.key("metadata").key("name").text().is_none_or(|name| !made.ends_with(&format!("/{name}")))
        }) {
            self.caveat(format!(
                "another DestinationRule shapes {cluster} already: which one counts depends on their namespaces and ages"
            ));
        }
        match tls.key("mode").text() {
            None => self.note(format!("{label} sets no TLS mode, so this connection passes as before")),
            Some("DISABLE") => {
                if current.tls == Tls::Mesh {
                    self.caveat(
                        "the proxy is in the mesh: its sidecar refuses plaintext where mutual TLS is STRICT",
                    );
                }
                self.result.edit.clusters.append(&mut simulated_config::without_tls(value).clusters);
            }
            Some("SIMPLE" | "MUTUAL") => {
                self.result.edit.clusters.append(&mut simulated_config::with_tls(value).clusters);
            }
            Some(mode) => return Err(TryError::Field(format!("{label} sets the TLS mode {mode}"))),
        }
        Ok(())
    }

    pub(super) fn sidecar(&mut self, object: Node<'_>) -> Result<(), TryError> {
        let identity = self.dump.identity();
        let namespace = object.key("metadata").key("namespace").text().unwrap_or("default");
        let Some(app) = self.dump.namespace() else {
            return Err(TryError::Field(
                "a Sidecar needs the app's namespace, which this dump does not name".to_owned(),
            ));
        };
        let spec = object.key("spec");
        for field in ["outboundTrafficPolicy", "ingress"] {
            if spec.key(field).exists() {
                return Err(TryError::Field(format!("the Sidecar sets {field}")));
            }
        }
        let labels = spec.key("workloadSelector").key("labels");
        let selects = labels
            .members()
            .into_iter()
            .flatten()
            .all(|(key, value)| identity.has_label(key, value.as_str().unwrap_or_default()));
        if namespace != app || !selects {
            self.note(format!(
                "the Sidecar in {namespace} does not select this pod of {app}, so it changes nothing"
            ));
            return Ok(());
        }
        let egress: Vec<Node<'_>> = spec.key("egress").items().collect();
        if egress.iter().any(|one| one.key("port").exists() || one.key("bind").exists()) {
            return Err(TryError::Field("the Sidecar's egress sets port or bind".to_owned()));
        }
        let hosts: Vec<String> = egress.iter().flat_map(|one| one.key("hosts").texts()).collect();
        if hosts.is_empty() {
            self.note("the Sidecar restricts no hosts, so it changes nothing");
            return Ok(());
        }
        if self.origins.list.is_empty() || self.origins.total != self.origins.list.len() {
            self.caveat("the dump does not name every object behind the listener, so whether the Sidecar hides them is not known");
            return Ok(());
        }
        let shown: Vec<&Origin> =
            self.origins.list.iter().filter(|origin| imports(&hosts, origin, &app)).collect();
        match shown.first() {
            Some(origin) => self.note(format!("the Sidecar still imports {}", origin.label())),
            None => self.result.edit.removed_listeners.extend(self.decision.listener.clone()),
        }
        Ok(())
    }
}

/// Whether a rule's `host`, which may be short, is the service `known`.
fn is_rule_for(host: &str, namespace: &str, known: &str) -> bool {
    if let Some(suffix) = host.strip_prefix('*') {
        return known.ends_with(suffix);
    }
    if host == known {
        return true;
    }
    // `name` and `name.namespace` are names of Kubernetes.
    let full = match host.split('.').count() {
        1 => format!("{host}.{namespace}.svc."),
        2 => format!("{host}.svc."),
        _ => format!("{host}."),
    };
    known.starts_with(&full)
}

/// Whether a Sidecar's `egress.hosts` import the object (`NAMESPACE/NAME` with `.`, `~` and `*`).
fn imports(hosts: &[String], origin: &Origin, app: &str) -> bool {
    hosts.iter().any(|host| {
        let Some((namespace, name)) = host.split_once('/') else { return false };
        let in_namespace = match namespace {
            "*" => true,
            "." => origin.namespace.as_deref() == Some(app),
            "~" => false,
            other => origin.namespace.as_deref() == Some(other),
        };
        let known = origin.host.as_deref().unwrap_or_default();
        let is_named = match name.strip_prefix('*') {
            Some(suffix) => known.ends_with(suffix),
            None => name == known,
        };
        in_namespace && is_named
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_rules_and_sidecars_are_read_as_istio_reads_them() {
        let known = "web.shop.svc.cluster.local";
        for (host, namespace, matches) in [
            ("web.shop.svc.cluster.local", "x", true),
            ("web", "shop", true),
            ("web", "other", false),
            ("web.shop", "x", true),
            ("*.local", "x", true),
            ("*.shop.svc.cluster.local", "x", true),
            ("api.shop", "x", false),
        ] {
            assert_eq!(is_rule_for(host, namespace, known), matches, "{host}");
        }
        let origin = Origin {
            kind: "Service",
            namespace: Some("shop".to_owned()),
            name: Some("web".to_owned()),
            port: Some(80),
            host: Some(known.to_owned()),
        };
        for (host, app, imported) in [
            ("*/*", "a", true),
            ("./*", "shop", true),
            ("./*", "a", false),
            ("shop/*.local", "a", true),
            ("~/*", "shop", false),
        ] {
            assert_eq!(imports(&[host.to_owned()], &origin, app), imported, "{host}");
        }
    }
}
