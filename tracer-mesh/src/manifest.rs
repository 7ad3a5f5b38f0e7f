//! The objects that a fix asks the user to apply, as types that serde prints: no value can break out of its field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

/// One object, or a patch of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Manifest {
    ServiceEntry(ServiceEntry),
    EntryPart(EntryPart),
    Service(Service),
    DestinationRule(DestinationRule),
    TlsPatch(TlsPatch),
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

/// The part of a ServiceEntry that changes; what the dump does not show of it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EntryPart {
    spec: EntryPartSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct EntryPartSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<EntryPort>,
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
}

/// How Envoy speaks to a host, as a DestinationRule says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disable,
    IstioMutual,
}

impl TlsMode {
    fn name(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }

    /// What it does, for a title.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Disable => "no TLS",
            Self::IstioMutual => "the mesh's own mTLS",
        }
    }
}

/// A patch of a DestinationRule's TLS; its other settings stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TlsPatch {
    spec: TlsPatchSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TlsPatchSpec {
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

    /// A rule for one host that says nothing of TLS, so that the mesh chooses.
    pub(crate) fn auto_tls(name: String, namespace: String, host: String) -> Self {
        Self::DestinationRule(DestinationRule {
            api_version: NETWORKING,
            kind: "DestinationRule",
            metadata: Metadata { name, namespace },
            spec: DestinationRuleSpec { host },
        })
    }

    /// A patch of an existing DestinationRule.
    pub(crate) fn tls_mode(mode: TlsMode) -> Self {
        let tls = TlsSettings { mode: mode.name() };
        Self::TlsPatch(TlsPatch { spec: TlsPatchSpec { traffic_policy: TrafficPolicy { tls } } })
    }

    /// The addresses that an existing ServiceEntry lacks.
    pub(crate) fn more_addresses(ips: &[IpAddr]) -> Self {
        let addresses = ips.iter().map(ToString::to_string).collect();
        Self::EntryPart(EntryPart { spec: EntryPartSpec { addresses, ports: Vec::new() } })
    }

    /// The port of an existing ServiceEntry, as TCP.
    pub(crate) fn entry_port(port: u16) -> Self {
        let port = EntryPort { number: port, name: format!("tcp-{port}"), protocol: "TCP" };
        Self::EntryPart(EntryPart { spec: EntryPartSpec { addresses: Vec::new(), ports: vec![port] } })
    }

    /// The annotation that leaves `ips` out of the redirect, beside the ranges that it has already.
    pub(crate) fn exclude(existing: &str, ips: &[IpAddr]) -> Self {
        let mut ranges: Vec<String> =
            existing.split(',').map(str::trim).filter(|range| !range.is_empty()).map(str::to_owned).collect();
        for ip in ips {
            let range = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
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

/// A name for a new object, from what it is for: lower case, digits and dashes, at most 63 characters, and different
/// for different parts (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>).
pub(crate) fn object_name(purpose: &str, parts: &[String]) -> String {
    let whole = parts.join("-");
    let mut name = purpose.to_owned();
    for character in whole.chars() {
        let plain = character.to_ascii_lowercase();
        match plain {
            'a'..='z' | '0'..='9' => name.push(plain),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
        if name.len() == purpose.len() + 1 && !name.ends_with('-') {
            name.insert(purpose.len(), '-');
        }
    }
    let name = name.trim_end_matches('-');
    // What the rules cannot hold (a wildcard, a long host) is told apart by a checksum.
    let is_plain = whole.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | ':' | '-'));
    if is_plain && name.len() <= 63 {
        return name.to_owned();
    }
    let checksum =
        whole.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let start = name.get(..name.len().min(54)).unwrap_or(name).trim_end_matches('-');
    format!("{start}-{checksum:08x}")
}

/// The namespace of an object, and whether only that namespace sees it.
pub(crate) struct Scope {
    pub namespace: String,
    pub is_private: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_differ_for_different_parts() {
        let name = |parts: &[&str]| {
            object_name("forward-proxy", &parts.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(name(&["10.0.0.1", "3128"]), "forward-proxy-10-0-0-1-3128");
        assert_eq!(name(&["fd00::1", "3128"]), "forward-proxy-fd00-1-3128");
        assert_ne!(name(&["*.corp.example"]), name(&["corp.example"]));
        let long = "a".repeat(300);
        for parts in
            [&["*.corp.example"][..], &["A_b.example"], &[long.as_str()], &["10.0.0.1", "10.0.0.2", "3128"]]
        {
            let name = name(parts);
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            assert!(!name.contains("--") && !name.ends_with('-'), "{name}");
        }
    }
}
