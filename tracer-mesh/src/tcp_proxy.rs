//! Reads the TCP proxy filter: its clusters, and what it asks of them.

use serde_json::Value;

use super::json::Node;

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug)]
pub(crate) struct TcpProxy {
    /// The clusters it may use: one, or the weighted ones.
    pub clusters: Vec<String>,
    /// `tunneling_config`: Envoy writes a CONNECT of its own and the app's bytes travel inside.
    pub tunnels_to: Option<String>,
    /// `metadata_match`: the labels that a host of the cluster must have.
    pub subset: Option<Value>,
}

impl TcpProxy {
    pub(crate) fn read(config: Node<'_>) -> Self {
        let clusters = match config.field("cluster").text() {
            Some(cluster) => vec![cluster.to_owned()],
            None => weighted(config.field("weighted_clusters")),
        };
        let tunneling = config.field("tunneling_config");
        let tunnels_to =
            tunneling.exists().then(|| tunneling.field("hostname").str().unwrap_or_default().to_owned());
        Self { clusters, tunnels_to, subset: subset(config.field("metadata_match")) }
    }
}

/// The clusters of a `weighted_clusters` that can be drawn: those of a weight, or all where none has one.
pub(crate) fn weighted(weighted: Node<'_>) -> Vec<String> {
    let clusters = weighted.field("clusters");
    let weight = |cluster: &Node<'_>| cluster.field("weight").integer().unwrap_or(0);
    let has_weights = clusters.items().any(|cluster| weight(&cluster) > 0);
    let mut names: Vec<String> = clusters
        .items()
        .filter(|cluster| !has_weights || weight(cluster) > 0)
        .filter_map(|cluster| cluster.field("name").text())
        .map(str::to_owned)
        .collect();
    names.dedup();
    names
}

/// The `envoy.lb` part of a `metadata_match`.
pub(crate) fn subset(metadata_match: Node<'_>) -> Option<Value> {
    metadata_match.field("filter_metadata").key("envoy.lb").value().cloned()
}
