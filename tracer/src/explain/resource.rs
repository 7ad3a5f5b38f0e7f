//! Tells a resource of Envoy's by its fields, where it comes without a type, as `istioctl proxy-config` prints it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// What tells one resource without a type from another: fields that only one kind of message has.
#[derive(Deserialize)]
pub(super) struct Shape {
    #[serde(rename = "@type", default)]
    pub(super) kind: Option<IgnoredAny>,
    #[serde(rename = "apiVersion", default)]
    pub(super) api_version: Option<IgnoredAny>,
    #[serde(rename = "kind", default)]
    pub(super) kubernetes_kind: Option<Value>,
    #[serde(default)]
    bootstrap: Option<IgnoredAny>,
    #[serde(alias = "filterChains", default)]
    filter_chains: Option<IgnoredAny>,
    #[serde(alias = "listenerFilters", default)]
    listener_filters: Option<IgnoredAny>,
    #[serde(alias = "trafficDirection", default)]
    traffic_direction: Option<IgnoredAny>,
    #[serde(alias = "virtualHosts", default)]
    virtual_hosts: Option<IgnoredAny>,
    #[serde(alias = "validateClusters", default)]
    validate_clusters: Option<IgnoredAny>,
    #[serde(alias = "hostStatuses", default)]
    host_statuses: Option<IgnoredAny>,
    #[serde(alias = "addedViaApi", default)]
    added_via_api: Option<IgnoredAny>,
    #[serde(alias = "clusterName", default)]
    cluster_name: Option<IgnoredAny>,
    #[serde(alias = "connectTimeout", default)]
    connect_timeout: Option<IgnoredAny>,
    #[serde(rename = "type", default)]
    discovery: Option<IgnoredAny>,
    #[serde(alias = "edsClusterConfig", default)]
    eds_cluster_config: Option<IgnoredAny>,
    #[serde(alias = "loadAssignment", default)]
    load_assignment: Option<IgnoredAny>,
    #[serde(alias = "activeState", default)]
    active_state: Option<IgnoredAny>,
    #[serde(alias = "routeConfig", default)]
    route_config: Option<IgnoredAny>,
    #[serde(default)]
    cluster: Option<IgnoredAny>,
    #[serde(default)]
    listener: Option<IgnoredAny>,
    #[serde(alias = "endpointConfig", default)]
    endpoint_config: Option<IgnoredAny>,
}

impl Shape {
    /// The type that stands for the resource in a dump, and its section. `None`: it takes no part in a decision.
    pub(super) fn message(&self) -> Option<(&'static str, Section)> {
        let any = |fields: &[&Option<IgnoredAny>]| fields.iter().any(|field| field.is_some());
        if any(&[&self.bootstrap]) {
            Some(("envoy.admin.v3.BootstrapConfigDump", Section::Bootstrap))
        } else if any(&[&self.active_state]) {
            Some(("envoy.admin.v3.ListenersConfigDump.DynamicListener", Section::Listeners))
        } else if any(&[&self.listener]) {
            Some(("envoy.admin.v3.ListenersConfigDump.StaticListener", Section::Listeners))
        } else if any(&[&self.filter_chains, &self.listener_filters, &self.traffic_direction]) {
            Some(("envoy.config.listener.v3.Listener", Section::Listeners))
        } else if any(&[&self.route_config]) {
            Some(("envoy.admin.v3.RoutesConfigDump.DynamicRouteConfig", Section::Routes))
        } else if any(&[&self.virtual_hosts, &self.validate_clusters]) {
            Some(("envoy.config.route.v3.RouteConfiguration", Section::Routes))
        } else if any(&[&self.cluster]) {
            Some(("envoy.admin.v3.ClustersConfigDump.DynamicCluster", Section::Clusters))
        } else if any(&[&self.endpoint_config]) {
            Some(("envoy.admin.v3.EndpointsConfigDump.DynamicEndpointConfig", Section::Endpoints))
        } else if any(&[&self.host_statuses, &self.added_via_api]) {
            // `istioctl proxy-config endpoints` prints hosts without the metadata that decides about TLS, so it is no proof
            // of what the cluster does.
            None
        } else if any(&[&self.cluster_name]) {
            Some(("envoy.config.endpoint.v3.ClusterLoadAssignment", Section::Endpoints))
        } else if any(&[
            &self.connect_timeout,
            &self.discovery,
            &self.eds_cluster_config,
            &self.load_assignment,
        ]) {
            Some(("envoy.config.cluster.v3.Cluster", Section::Clusters))
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Bootstrap,
    Listeners,
    Routes,
    Clusters,
    Endpoints,
}

/// What a dump without listeners holds, in words.
pub(super) fn contents(found: &[Section]) -> String {
    let names = [
        (Section::Bootstrap, "the bootstrap"),
        (Section::Routes, "routes"),
        (Section::Clusters, "clusters"),
        (Section::Endpoints, "endpoints"),
    ];
    let there: Vec<&str> =
        names.iter().filter(|(section, _)| found.contains(section)).map(|(_, name)| *name).collect();
    there.join(", ")
}
