//! Reads an HTTP connection manager: where its routes are, which upgrades and which HTTP/1 it accepts, and which filters
//! run before the router.

use serde_json::Value;

use super::json::{Extension, Node};

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the message's own switches")]
pub(crate) struct Hcm {
    pub codec: Codec,
    pub routes: Routes,
    pub upgrades: Vec<Upgrade>,
    pub accept_http_10: bool,
    pub default_host_for_http_10: Option<String>,
    pub allow_absolute_url: bool,
    pub allow_chunked_length: bool,
    pub strips_port: bool,
    pub max_headers_kb: usize,
    pub max_headers: usize,
    /// Filters before the router that may answer by themselves, by name.
    pub early_filters: Vec<String>,
    pub has_router: bool,
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Auto,
    Http1,
    Http2,
}

/// Where the route configuration is.
#[derive(Clone, Debug)]
pub(crate) enum Routes {
    /// By name, from RDS.
    Named(String),
    Inline(Box<Value>),
    /// `scoped_routes`: chosen by a header, which sidecars never do.
    Scoped,
    None,
}

/// One of `upgrade_configs`, of a connection manager or of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub kind: String,
    pub enabled: bool,
    /// `connect_config`: Envoy ends the CONNECT itself (routes only).
    pub terminates: bool,
}

impl Upgrade {
    /// All of a list of upgrade configurations. `enabled` is true where it is absent.
    pub(crate) fn read_all(list: Node<'_>) -> Vec<Self> {
        let read = |node: Node<'_>| {
            Some(Self {
                kind: node.field("upgrade_type").text()?.to_owned(),
                enabled: node.field("enabled").bool().unwrap_or(true),
                terminates: node.field("connect_config").exists(),
            })
        };
        list.items().filter_map(read).collect()
    }
}

impl Hcm {
    pub(crate) fn read(config: Node<'_>) -> Self {
        let http1 = config.field("http_protocol_options");
        let common = config.field("common_http_protocol_options");
        let mut early_filters = Vec::new();
        let mut has_router = false;
        for filter in config.field("http_filters").items() {
            let extension = filter.extension();
            if is_router(&extension) {
                has_router = true;
                break;
            }
            if !filter.field("disabled").is_true() && may_answer(&extension) {
                early_filters.push(extension.name.to_owned());
            }
        }
        Self {
            codec: match config.field("codec_type").str() {
                Some("HTTP1") => Codec::Http1,
                Some("HTTP2") => Codec::Http2,
                _ => Codec::Auto,
            },
            routes: Routes::read(config),
            upgrades: Upgrade::read_all(config.field("upgrade_configs")),
            accept_http_10: http1.field("accept_http_10").is_true(),
            default_host_for_http_10: http1.field("default_host_for_http_10").text().map(str::to_owned),
            // The default became true with Envoy 1.9 (HttpConnectionManagerConfig, parseHttp1Settings).
            allow_absolute_url: http1.field("allow_absolute_url").bool().unwrap_or(true),
            allow_chunked_length: http1.field("allow_chunked_length").is_true(),
            strips_port: config.field("strip_any_host_port").is_true(),
            max_headers_kb: unsigned(config.field("max_request_headers_kb"), 60),
            max_headers: unsigned(common.field("max_headers_count"), 100),
            early_filters,
            has_router,
        }
    }
}

impl Routes {
    fn read(config: Node<'_>) -> Self {
        let rds = config.field("rds");
        if rds.exists() {
            return Self::Named(rds.field("route_config_name").str().unwrap_or_default().to_owned());
        }
        if let Some(inline) = config.field("route_config").value() {
            return Self::Inline(Box::new(inline.clone()));
        }
        if config.field("scoped_routes").exists() { Self::Scoped } else { Self::None }
    }
}

fn unsigned(node: Node<'_>, default: usize) -> usize {
    node.integer().and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

fn is_router(filter: &Extension<'_>) -> bool {
    filter.message == "Router" || filter.name == "envoy.filters.http.router"
}

/// Whether a filter may answer a CONNECT before the router does.
///
/// Those listed never do: they count, add headers, or answer only requests of another method (CORS preflight).
/// What is not known may, so that nothing is promised that a filter can break.
fn may_answer(filter: &Extension<'_>) -> bool {
    let known_passive = matches!(
        filter.message,
        "FilterConfig" if filter.name.contains("grpc_stats") || filter.name.contains("istio.alpn")
    ) || matches!(
        filter.message,
        "Cors" | "GrpcWeb" | "HeaderToMetadata" | "PeerMetadataConfig" | "AlpnFilter"
    ) || matches!(
        filter.name,
        "istio.stats"
            | "istio.alpn"
            | "istio.metadata_exchange"
            | "istio_authn"
            | "waypoint_downstream_peer_metadata"
            | "envoy.filters.http.grpc_stats"
            | "envoy.filters.http.cors"
            | "envoy.cors"
            | "envoy.filters.http.grpc_web"
            | "envoy.grpc_web"
            | "mixer_alpn"
            | "envoy.filters.http.header_to_metadata"
    );
    if known_passive {
        return false;
    }
    match filter.message {
        // A fault filter without an abort only delays; without either it waits to be told by a header.
        "HTTPFault" => filter.config.field("abort").exists(),
        // RBAC without rules and matcher lets everything pass (RoleBasedAccessControlEngineImpl is not made).
        "RBAC" => filter.config.field("rules").exists() || filter.config.field("matcher").exists(),
        _ => filter.name != "envoy.fault" || filter.config.field("abort").exists(),
    }
}
