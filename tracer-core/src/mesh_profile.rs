//! The facts of each mesh that something outside the mesh has to know: ports, users, container names, annotations. A
//! profile names and finds an interceptor; it never proves that there is one.

use serde::{Deserialize, Serialize};

/// The kind of a transparent proxy, by how it treats what it accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum InterceptorKind {
    /// Envoy in the app's pod. It may parse HTTP.
    #[default]
    Sidecar,
    /// Istio's node proxy. It parses no HTTP.
    Ztunnel,
    /// Linkerd's proxy in the app's pod. It may parse HTTP.
    Linkerd,
    /// Another program.
    Other,
}

/// What is fixed about one mesh's transparent proxy, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshProfile {
    /// The mesh, in lower case.
    pub name: &'static str,
    /// Port that receives the app's redirected connections.
    pub outbound_port: u16,
    /// Port that receives redirected connections from outside the pod.
    pub inbound_port: u16,
    /// Port of the proxy's admin interface, on loopback in the pod.
    pub admin_port: u16,
    /// Whether the admin port serves Envoy's `/config_dump`.
    pub admin_is_envoy: bool,
    /// Name of the container that runs the proxy.
    pub container: &'static str,
    /// User that the proxy runs as, whose connections are not redirected. A hint: platforms override it.
    pub uid_hint: Option<u32>,
    /// Firewall mark of the proxy's own sockets, where the redirect exempts by mark.
    pub mark: Option<u32>,
    /// The kind of its proxy.
    pub kind: InterceptorKind,
    /// How the names of its proxy's threads begin.
    pub thread_prefix: &'static str,
    /// Annotation that the injector leaves on a pod that it changed.
    pub injected_annotation: &'static str,
    /// Prefix of the annotations that shape the redirect.
    pub annotation_prefix: &'static str,
}

/// Istio's sidecar.
///
/// Threads: envoyproxy/envoy `source/server/worker_impl.cc` names them `wrk:worker_N`, in every mesh that uses Envoy.
///
/// Ports: <https://istio.io/latest/docs/ops/deployment/application-requirements/#ports-used-by-istio>. User 1337:
/// istio/istio `tools/istio-iptables/pkg/constants/constants.go` `DefaultProxyUID`. Container: `pkg/kube/inject`
/// `ProxyContainerName`. Annotations: <https://istio.io/latest/docs/reference/config/annotations/>.
pub const ISTIO: MeshProfile = MeshProfile {
    name: "istio",
    outbound_port: 15001,
    inbound_port: 15006,
    admin_port: 15000,
    admin_is_envoy: true,
    container: "istio-proxy",
    uid_hint: Some(1337),
    mark: None,
    kind: InterceptorKind::Sidecar,
    thread_prefix: "wrk:worker_",
    injected_annotation: "sidecar.istio.io/status",
    annotation_prefix: "traffic.sidecar.istio.io/",
};

/// Istio's node proxy of ambient mode, which listens inside each pod's network namespace.
///
/// Ports: istio/ztunnel `src/config.rs`. Mark: istio/istio `cni/pkg/config` `InpodMark`. Annotation: istio/api
/// `annotation/annotations.gen.go` `AmbientRedirection`. Threads: istio/ztunnel
/// `src/app.rs` names them `ztunnel-proxy-N`.
pub const ZTUNNEL: MeshProfile = MeshProfile {
    name: "ztunnel",
    outbound_port: 15001,
    inbound_port: 15006,
    admin_port: 15000,
    admin_is_envoy: false,
    container: "istio-proxy",
    uid_hint: None,
    mark: Some(0x539),
    kind: InterceptorKind::Ztunnel,
    thread_prefix: "ztunnel-proxy",
    injected_annotation: "ambient.istio.io/redirection",
    annotation_prefix: "ambient.istio.io/",
};

/// Linkerd 2's proxy.
///
/// Ports and user: <https://linkerd.io/2/reference/proxy-configuration/> and linkerd/linkerd2
/// `charts/linkerd-control-plane/values.yaml`.
pub const LINKERD: MeshProfile = MeshProfile {
    name: "linkerd",
    outbound_port: 4140,
    inbound_port: 4143,
    admin_port: 4191,
    admin_is_envoy: false,
    container: "linkerd-proxy",
    uid_hint: Some(2102),
    mark: None,
    kind: InterceptorKind::Linkerd,
    thread_prefix: "linkerd2-proxy",
    injected_annotation: "linkerd.io/proxy-version",
    annotation_prefix: "config.linkerd.io/",
};

/// Consul's sidecar with transparent proxy.
///
/// Outbound port: hashicorp/consul `sdk/iptables/iptables.go` `DefaultTProxyOutboundPort`. The rest:
/// hashicorp/consul-k8s `control-plane/connect-inject`.
pub const CONSUL: MeshProfile = MeshProfile {
    name: "consul",
    outbound_port: 15001,
    inbound_port: 20000,
    admin_port: 19000,
    admin_is_envoy: true,
    container: "consul-dataplane",
    uid_hint: Some(5995),
    mark: None,
    kind: InterceptorKind::Sidecar,
    thread_prefix: "wrk:worker_",
    injected_annotation: "consul.hashicorp.com/connect-inject-status",
    annotation_prefix: "consul.hashicorp.com/",
};

/// Kuma's sidecar.
///
/// Ports and user: kumahq/kuma `pkg/config/plugins/runtime/k8s/config.go`. Container:
/// `pkg/plugins/runtime/k8s/util` `KumaSidecarContainerName`. Annotations:
/// `pkg/plugins/runtime/k8s/metadata/annotations.go`.
pub const KUMA: MeshProfile = MeshProfile {
    name: "kuma",
    outbound_port: 15001,
    inbound_port: 15006,
    admin_port: 9901,
    admin_is_envoy: true,
    container: "kuma-sidecar",
    uid_hint: Some(5678),
    mark: None,
    kind: InterceptorKind::Sidecar,
    thread_prefix: "wrk:worker_",
    injected_annotation: "kuma.io/sidecar-injected",
    annotation_prefix: "traffic.kuma.io/",
};

/// The mesh that defaults are taken from where nothing else is known.
pub const DEFAULT: &MeshProfile = &ISTIO;

/// Every known mesh.
pub const ALL: &[MeshProfile] = &[ISTIO, ZTUNNEL, LINKERD, CONSUL, KUMA];

impl MeshProfile {
    /// Whether a container of this name runs some mesh's proxy.
    pub fn is_proxy_container(name: &str) -> bool {
        ALL.iter().any(|profile| profile.container == name)
    }

    /// The kind of the proxy that has a thread of this name. A name never proves that a process intercepts.
    pub fn kind_of_thread(name: &str) -> InterceptorKind {
        let profile = ALL.iter().find(|profile| name.starts_with(profile.thread_prefix));
        profile.map_or(InterceptorKind::Other, |profile| profile.kind)
    }

    /// The mesh whose injector left one of `annotations`, given by name, on a pod.
    pub fn injected<'a>(mut annotations: impl Iterator<Item = &'a str>) -> Option<&'static Self> {
        annotations.find_map(|known| ALL.iter().find(|profile| profile.injected_annotation == known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_profile_has_its_ports() {
        for (index, profile) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(index + 1).all(|other| other.name != profile.name));
            assert_ne!(profile.outbound_port, profile.inbound_port, "{}", profile.name);
            assert!(profile.annotation_prefix.ends_with('/'), "{}", profile.name);
        }
    }

    #[test]
    fn a_pod_is_told_by_the_annotation_of_its_injector() {
        let annotations = ["app.kubernetes.io/name", "kuma.io/sidecar-injected"];
        assert_eq!(MeshProfile::injected(annotations.into_iter()), Some(&KUMA));
        assert_eq!(MeshProfile::injected(["a"].into_iter()), None);
    }
}
