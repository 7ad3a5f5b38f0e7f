//! What the dump's own node metadata says about the redirect: whether connections reach Envoy at all, and what kind of
//! proxy the dump is from.
//!
//! Source: <https://istio.io/latest/docs/reference/config/annotations/> (`traffic.sidecar.istio.io/…`), istio/istio
//! `tools/istio-iptables/pkg/capture/run.go` (the order of the rules), `pilot/pkg/model/context.go` (the node's id).

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use tracer_core::mesh_profile::ISTIO;

use super::json::Node;

/// The `bootstrap.node` of a dump.
pub(crate) struct Identity(Option<Value>);

impl Identity {
    pub(crate) fn new(node: Option<Value>) -> Self {
        Self(node)
    }

    fn node(&self) -> Node<'_> {
        self.0.as_ref().map_or(Node::none(), Node::of)
    }

    fn metadata(&self) -> Node<'_> {
        self.node().field("metadata")
    }

    /// The pod's namespace.
    pub(crate) fn namespace(&self) -> Option<String> {
        self.metadata().key("NAMESPACE").text().map(str::to_owned)
    }

    /// Whether the dump says anything of its pod.
    pub(crate) fn is_known(&self) -> bool {
        self.metadata().exists()
    }

    /// `NAMESPACE/NAME` of the pod: the second part of an id `sidecar~IP~NAME.NAMESPACE~DOMAIN`.
    pub(crate) fn pod(&self) -> Option<String> {
        let pod = self.node().field("id").text()?.split('~').nth(2)?;
        let (name, namespace) = pod.rsplit_once('.')?;
        Some(format!("{namespace}/{name}"))
    }

    /// The sidecar's release.
    pub(crate) fn version(&self) -> Option<String> {
        self.metadata().key("ISTIO_VERSION").text().filter(|version| *version != "unknown").map(str::to_owned)
    }

    /// Whether the release is one that labels the endpoints with a sidecar (`tlsMode`), as istiod does since Istio 1.4.
    pub(crate) fn labels_endpoints(&self) -> bool {
        let version = self.version().unwrap_or_default();
        let mut parts = version.split(['.', '-']).map(str::parse::<u32>);
        matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (1, 5))
    }

    /// The workload that owns the pod: namespace, kind and name, from an owner
    /// `kubernetes://apis/apps/v1/namespaces/NAMESPACE/deployments/NAME`.
    pub(crate) fn workload(&self) -> Option<(String, String, String)> {
        let Some(owner) = self.metadata().key("OWNER").text() else {
            // Most workloads are Deployments.
            let name = self.metadata().key("WORKLOAD_NAME").text()?;
            return Some((self.namespace()?, "deployment".to_owned(), name.to_owned()));
        };
        let mut parts = owner.rsplit('/');
        let (name, kinds, namespace) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = kinds
            .strip_suffix('s')
            .filter(|kind| matches!(*kind, "deployment" | "statefulset" | "daemonset" | "replicaset"))?;
        Some((namespace.to_owned(), kind.to_owned(), name.to_owned()))
    }

    /// The value of a `traffic.sidecar.istio.io/…` annotation.
    pub(crate) fn annotation(&self, name: &str) -> Option<String> {
        let key = format!("{}{name}", ISTIO.annotation_prefix);
        self.metadata().key("ANNOTATIONS").key(&key).text().map(str::to_owned)
    }

    /// `sidecar`, `router` (a gateway), `waypoint`, `ztunnel`: the first part of an id `TYPE~IP~NAME~DOMAIN`.
    pub(crate) fn kind(&self) -> Option<&str> {
        self.node().field("id").text()?.split_once('~').map(|(kind, _)| kind)
    }

    /// Whether the workload has this label.
    pub(crate) fn has_label(&self, name: &str, value: &str) -> bool {
        self.metadata().key("LABELS").key(name).str() == Some(value)
    }

    /// The identity after the pod got more annotations.
    pub(crate) fn with_annotations(&self, more: &serde_json::Map<String, Value>) -> Self {
        let mut annotations = self.metadata().key("ANNOTATIONS").members().cloned().unwrap_or_default();
        annotations.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut metadata = self.metadata().members().cloned().unwrap_or_default();
        metadata.insert("ANNOTATIONS".to_owned(), Value::Object(annotations));
        let mut node = self.node().members().cloned().unwrap_or_default();
        node.insert("metadata".to_owned(), Value::Object(metadata));
        Self(Some(Value::Object(node)))
    }

    /// Whether the address is one of the pod's own.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        let id = self.node().field("id").text().and_then(|id| id.split('~').nth(1));
        let instances = self.metadata().key("INSTANCE_IPS").text().unwrap_or_default();
        id.into_iter().chain(instances.split(',')).any(|own| own.trim().parse() == Ok(ip))
    }

    /// Why a connection to `to` never reaches Envoy, where the metadata says so.
    pub(crate) fn bypass(&self, to: SocketAddr) -> Option<String> {
        if self.metadata().key("INTERCEPTION_MODE").text() == Some("NONE") {
            return Some("INTERCEPTION_MODE is NONE, so nothing is redirected".to_owned());
        }
        let annotations = self.metadata().key("ANNOTATIONS");
        let annotation = |name: &str| {
            let value = annotations.key(&format!("{}{name}", ISTIO.annotation_prefix)).text()?;
            Some(value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned))
        };
        let has_port =
            |items: Vec<String>| items.iter().any(|item| item == "*" || item.parse() == Ok(to.port()));
        let has_ip = |items: Vec<String>| items.iter().any(|item| item == "*" || contains(item, to.ip()));
        let listed = |name: &str| annotation(name).map(Iterator::collect::<Vec<_>>);
        let says = |name: &str| {
            Some(format!("annotation {}{name} leaves it out of the redirect", ISTIO.annotation_prefix))
        };
        if listed("excludeOutboundPorts").is_some_and(has_port) {
            return says("excludeOutboundPorts");
        }
        if listed("excludeOutboundIPRanges").is_some_and(has_ip) {
            return says("excludeOutboundIPRanges");
        }
        if listed("includeOutboundPorts").is_some_and(has_port) {
            return None;
        }
        if listed("includeOutboundIPRanges").is_some_and(|ranges| !has_ip(ranges)) {
            return says("includeOutboundIPRanges");
        }
        None
    }
}

/// Whether the CIDR block (or the single address) holds `ip`.
fn contains(block: &str, ip: IpAddr) -> bool {
    let (network, length) = block.split_once('/').unwrap_or((block, ""));
    let Ok(network) = network.parse::<IpAddr>() else { return false };
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let length = length.parse().unwrap_or(bits);
    super::chain_match::Prefix::new(network, length).contains(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bypass(metadata: &Value, to: &str) -> Option<String> {
        Identity::new(Some(json!({"metadata": metadata}))).bypass(to.parse().unwrap())
    }

    #[test]
    fn annotations_are_read_in_the_order_of_the_rules() {
        let annotated = |name: &str, value: &str| {
            let mut names = serde_json::Map::new();
            names.insert(format!("traffic.sidecar.istio.io/{name}"), value.into());
            json!({"ANNOTATIONS": names})
        };
        for (name, value, bypassed) in [
            ("excludeOutboundPorts", "80, 3128", true),
            ("excludeOutboundPorts", "80", false),
            ("excludeOutboundIPRanges", "10.0.0.0/8", true),
            ("excludeOutboundIPRanges", "10.0.0.2", false),
            ("includeOutboundIPRanges", "192.168.0.0/16", true),
            ("includeOutboundIPRanges", "*", false),
            ("includeOutboundPorts", "3128", false),
        ] {
            assert_eq!(
                bypass(&annotated(name, value), "10.0.0.1:3128").is_some(),
                bypassed,
                "{name} {value}"
            );
        }
        assert!(bypass(&json!({"INTERCEPTION_MODE": "NONE"}), "10.0.0.1:3128").is_some());
        assert!(bypass(&json!({"INTERCEPTION_MODE": "TPROXY"}), "10.0.0.1:3128").is_none());
    }
}
