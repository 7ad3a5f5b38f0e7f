//! Reads the TCP proxy filter: where it sends a connection.

use super::json::Node;

/// `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Clone, Debug)]
pub(crate) struct TcpProxy {
    /// The clusters it may use: one, or the weighted ones.
    pub clusters: Vec<String>,
    /// `tunneling_config`: Envoy writes a CONNECT of its own and the app's bytes travel inside.
    pub tunnels_to: Option<String>,
}

impl TcpProxy {
    pub(crate) fn read(config: Node<'_>) -> Self {
        let weighted = config.field("weighted_clusters").field("clusters");
        let clusters = match config.field("cluster").text() {
            Some(cluster) => vec![cluster.to_owned()],
            None => weighted.items().filter_map(|c| c.field("name").text()).map(str::to_owned).collect(),
        };
        let tunneling = config.field("tunneling_config");
        let tunnels_to =
            tunneling.exists().then(|| tunneling.field("hostname").str().unwrap_or_default().to_owned());
        Self { clusters, tunnels_to }
    }
}
