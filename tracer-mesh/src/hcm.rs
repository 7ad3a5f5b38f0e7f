//! Reads an HTTP connection manager: where its routes are, which upgrades and which HTTP/1 it accepts, how it changes a
//! request before it looks for a route, and which filters run before the router.

use serde_json::Value;

use super::http_filter::HttpFilter;
use super::json::Node;

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
    pub strips_any_port: bool,
    pub strips_matching_port: bool,
    pub strips_trailing_dot: bool,
    pub normalizes_path: bool,
    pub merges_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    pub underscores: Underscores,
    pub max_headers_kb: usize,
    pub max_headers: usize,
    /// The filters before the router.
    pub filters: Vec<HttpFilter>,
    pub has_router: bool,
    /// `early_header_mutation_extensions`, each a `HeaderMutation`.
    pub early_mutations: Vec<Value>,
    /// `local_reply_config.mappers`.
    pub reply_mappers: Vec<Value>,
    /// Envoy says itself what came over TLS, whatever the app's headers say.
    pub sets_forwarded_proto: bool,
    /// What is set in a way that is not understood.
    pub unread: Vec<String>,
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Auto,
    Http1,
    Http2,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EscapedSlashes {
    Keep,
    Reject,
    Redirect,
    Unescape,
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underscores {
    Allow,
    Reject,
    Drop,
}

/// Where the route configuration is.
#[derive(Clone, Debug)]
pub(crate) enum Routes {
    /// By name, from RDS.
    Named(String),
    Inline(Box<Value>),
    /// `scoped_routes`: chosen by a key that is built from the request.
    Scoped(Box<Value>),
    None,
}

/// One of `upgrade_configs`, of a connection manager or of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub kind: String,
    pub enabled: bool,
    /// `connect_config`: Envoy ends the CONNECT itself (routes only).
    pub terminates: bool,
    /// `filters`: the upgrade has HTTP filters of its own.
    pub has_filters: bool,
}

impl Upgrade {
    /// All of a list of upgrade configurations. `enabled` is true where it is absent.
    pub(crate) fn read_all(list: Node<'_>) -> Vec<Self> {
        let read = |node: Node<'_>| {
            Some(Self {
                kind: node.field("upgrade_type").text()?.to_owned(),
                enabled: node.field("enabled").bool().unwrap_or(true),
                terminates: node.field("connect_config").exists(),
                has_filters: node.field("filters").items().next().is_some(),
            })
        };
        list.items().filter_map(read).collect()
    }
}

impl Hcm {
    pub(crate) fn read(config: Node<'_>) -> Self {
        let http1 = config.field("http_protocol_options");
        let common = config.field("common_http_protocol_options");
        let (filters, has_router) = HttpFilter::read_all(config.field("http_filters"));
        let mut unread = Vec::new();
        let mut early_mutations = Vec::new();
        for extension in config.field("early_header_mutation_extensions").items() {
            let extension = extension.extension();
            match (extension.message, extension.config.value()) {
                ("HeaderMutation", Some(config)) => early_mutations.push(config.clone()),
                _ => unread.push(format!("early header mutation {} is not evaluated here", extension.name)),
            }
        }
        Self {
            codec: match config.field("codec_type").str() {
                Some("HTTP1") => Codec::Http1,
                Some("HTTP2") => Codec::Http2,
                None | Some("AUTO") => Codec::Auto,
                Some(other) => {
                    unread.push(format!("the codec {other} is not evaluated here"));
                    Codec::Auto
                }
            },
            routes: Routes::read(config),
            upgrades: Upgrade::read_all(config.field("upgrade_configs")),
            accept_http_10: http1.field("accept_http_10").is_true(),
            default_host_for_http_10: http1.field("default_host_for_http_10").text().map(str::to_owned),
            // The default became true with Envoy 1.9 (HttpConnectionManagerConfig, parseHttp1Settings).
            allow_absolute_url: http1.field("allow_absolute_url").bool().unwrap_or(true),
            allow_chunked_length: http1.field("allow_chunked_length").is_true(),
            strips_any_port: config.field("strip_any_host_port").is_true(),
            strips_matching_port: config.field("strip_matching_host_port").is_true(),
            strips_trailing_dot: config.field("strip_trailing_host_dot").is_true(),
            normalizes_path: config.field("normalize_path").is_true(),
            merges_slashes: config.field("merge_slashes").is_true(),
            escaped_slashes: match config.field("path_with_escaped_slashes_action").str() {
                Some("REJECT_REQUEST") => EscapedSlashes::Reject,
                Some("UNESCAPE_AND_REDIRECT") => EscapedSlashes::Redirect,
                Some("UNESCAPE_AND_FORWARD") => EscapedSlashes::Unescape,
                _ => EscapedSlashes::Keep,
            },
            underscores: match common.field("headers_with_underscores_action").str() {
                Some("REJECT_REQUEST") => Underscores::Reject,
                Some("DROP_HEADER") => Underscores::Drop,
                _ => Underscores::Allow,
            },
            max_headers_kb: unsigned(config.field("max_request_headers_kb"), 60),
            max_headers: unsigned(common.field("max_headers_count"), 100),
            filters,
            has_router,
            sets_forwarded_proto: config.field("use_remote_address").is_true()
                && config.field("xff_num_trusted_hops").integer().unwrap_or(0) == 0,
            early_mutations,
            reply_mappers: config
                .field("local_reply_config")
                .field("mappers")
                .items()
                .filter_map(Node::value)
                .cloned()
                .collect(),
            unread,
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
        match config.field("scoped_routes").value() {
            Some(scoped) => Self::Scoped(Box::new(scoped.clone())),
            None => Self::None,
        }
    }
}

fn unsigned(node: Node<'_>, default: usize) -> usize {
    node.integer().and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}
