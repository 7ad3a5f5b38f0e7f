//! The objects that a fix asks the user to apply, as types that serde prints: no value can break out of its field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// One object, or a patch of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Manifest {
    ServiceEntry(ServiceEntry),
    Service(Service),
    DestinationRule(DestinationRule),
    Sidecar(Sidecar),
    PodTemplate(PodTemplate),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceEntry {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: ServiceEntrySpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceEntrySpec {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<EntryPort>,
    location: &'static str,
    resolution: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    export_to: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct EntryPort {
    number: u16,
    name: String,
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Service {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: ServiceSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ServiceSpec {
    ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    port: u16,
    app_protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DestinationRule {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: DestinationRuleSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationRuleSpec {
    host: String,
    traffic_policy: TrafficPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TrafficPolicy {
    tls: TlsSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TlsSettings {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sidecar {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: SidecarSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct SidecarSpec {
    egress: Vec<Egress>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Egress {
    hosts: Vec<&'static str>,
}

/// A patch of a workload's pod template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PodTemplate {
    spec: PodTemplateSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PodTemplateSpec {
    template: Template,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Template {
    metadata: Annotations,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Annotations {
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Metadata {
    name: String,
    namespace: String,
}

const NETWORKING: &str = "networking.istio.io/v1";

impl Manifest {
    /// A TCP ServiceEntry over all the proxy's addresses. Source: istio's "Using an External HTTPS Proxy" task.
    pub(crate) fn service_entry(
        name: String,
        host: String,
        scope: &Scope,
        ips: &[IpAddr],
        ports: &[u16],
    ) -> Self {
        Self::ServiceEntry(ServiceEntry {
            api_version: NETWORKING,
            kind: "ServiceEntry",
            metadata: Metadata { name, namespace: scope.namespace.clone() },
            spec: ServiceEntrySpec {
                hosts: vec![host],
                addresses: ips.iter().map(ToString::to_string).collect(),
                ports: ports
                    .iter()
                    .map(|port| EntryPort { number: *port, name: format!("tcp-{port}"), protocol: "TCP" })
                    .collect(),
                location: "MESH_EXTERNAL",
                resolution: "NONE",
                export_to: if scope.is_private { vec!["."] } else { Vec::new() },
            },
        })
    }

    /// A patch that declares a Service's port as TCP; `ports` merges by `port`.
    pub(crate) fn tcp_port(name: &str, namespace: &str, port: u16) -> Self {
        Self::Service(Service {
            api_version: "v1",
            kind: "Service",
            metadata: Metadata { name: name.to_owned(), namespace: namespace.to_owned() },
            spec: ServiceSpec { ports: vec![ServicePort { port, app_protocol: "tcp" }] },
        })
    }

    pub(crate) fn no_tls(name: String, namespace: String, host: String) -> Self {
        Self::DestinationRule(DestinationRule {
            api_version: NETWORKING,
            kind: "DestinationRule",
            metadata: Metadata { name, namespace },
            spec: DestinationRuleSpec {
                host,
                traffic_policy: TrafficPolicy { tls: TlsSettings { mode: "DISABLE" } },
            },
        })
    }

    /// A Sidecar that shows a namespace only its own services and the control plane's.
    pub(crate) fn own_namespace_only(namespace: &str) -> Self {
        Self::Sidecar(Sidecar {
            api_version: NETWORKING,
            kind: "Sidecar",
            metadata: Metadata { name: "default".to_owned(), namespace: namespace.to_owned() },
            spec: SidecarSpec { egress: vec![Egress { hosts: vec!["./*", "istio-system/*"] }] },
        })
    }

    pub(crate) fn exclude(ips: &[IpAddr]) -> Self {
        let range = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        let ranges: Vec<String> = ips.iter().map(range).collect();
        let annotations =
            BTreeMap::from([("traffic.sidecar.istio.io/excludeOutboundIPRanges", ranges.join(","))]);
        Self::PodTemplate(PodTemplate {
            spec: PodTemplateSpec { template: Template { metadata: Annotations { annotations } } },
        })
    }

    /// The YAML text. Every type here is plain data, for which serialisation does not fail.
    pub(crate) fn yaml(&self) -> String {
        serde_saphyr::to_string(self).unwrap_or_default()
    }
}

/// The namespace of an object, and whether only that namespace sees it.
pub(crate) struct Scope {
    pub namespace: String,
    pub is_private: bool,
}
