//! The understood fields of route configurations.

use super::common::{HEADER_MATCHER, METADATA_MATCH, REGEX_MATCHER, RUNTIME_FRACTION, STRING_MATCHER};
use crate::closed_world::Message;

/// Its virtual hosts are looked at one by one.
pub(crate) const ROUTE_CONFIG: Message = Message {
    name: "route configuration",
    proto: "envoy.config.route.v3.RouteConfiguration",
    read: &["name", "virtual_hosts", "ignore_port_in_host_matching", "typed_per_filter_config"],
    inert: &[
        "response_headers_to_add",
        "response_headers_to_remove",
        "request_headers_to_add",
        "request_headers_to_remove",
        "most_specific_header_mutations_wins",
        "validate_clusters",
        "max_direct_response_body_size_bytes",
        "request_mirror_policies",
        "metadata",
        "cluster_specifier_plugins",
    ],
    ..Message::EMPTY
};

/// Its routes are looked at one by one, in order.
pub(crate) const VIRTUAL_HOST: Message = Message {
    name: "virtual host",
    proto: "envoy.config.route.v3.VirtualHost",
    read: &["name", "domains", "routes", "matcher", "require_tls", "typed_per_filter_config"],
    inert: &[
        "virtual_clusters",
        "rate_limits",
        "request_headers_to_add",
        "request_headers_to_remove",
        "response_headers_to_add",
        "response_headers_to_remove",
        "cors",
        "include_request_attempt_count",
        "include_attempt_count_in_response",
        "include_is_timeout_retry_header",
        "retry_policy",
        "retry_policy_typed_config",
        "hedge_policy",
        "per_request_buffer_limit_bytes",
        "request_body_buffer_limit",
        "request_mirror_policies",
        "metadata",
    ],
    ..Message::EMPTY
};

pub(crate) const ROUTE: Message = Message {
    name: "route",
    proto: "envoy.config.route.v3.Route",
    read: &["name", "metadata", "typed_per_filter_config"],
    inert: &[
        "decorator",
        "request_headers_to_add",
        "request_headers_to_remove",
        "response_headers_to_add",
        "response_headers_to_remove",
        "tracing",
        "per_request_buffer_limit_bytes",
        "request_body_buffer_limit",
        "stat_prefix",
    ],
    parts: &[
        ("match", &ROUTE_MATCH),
        ("route", &ROUTE_ACTION),
        ("redirect", &REDIRECT),
        ("direct_response", &ROUTE_RESPONSE),
    ],
    ..Message::EMPTY
};

pub(crate) const ROUTE_MATCH: Message = Message {
    name: "route match",
    proto: "envoy.config.route.v3.RouteMatch",
    read: &[
        "prefix",
        "path",
        "path_separated_prefix",
        "regex",
        "connect_matcher",
        "case_sensitive",
        "grpc",
        "dynamic_metadata",
        "filter_state",
        "path_match_policy",
    ],
    parts: &[
        ("safe_regex", &REGEX_MATCHER),
        ("runtime_fraction", &RUNTIME_FRACTION),
        ("headers", &HEADER_MATCHER),
        ("query_parameters", &QUERY_PARAMETER),
        ("cookies", &COOKIE),
        ("tls_context", &CLIENT_CERTIFICATE),
    ],
    ..Message::EMPTY
};

pub(crate) const QUERY_PARAMETER: Message = Message {
    name: "query parameter matcher",
    proto: "envoy.config.route.v3.QueryParameterMatcher",
    read: &["name", "present_match"],
    parts: &[("string_match", &STRING_MATCHER)],
    ..Message::EMPTY
};

pub(crate) const COOKIE: Message = Message {
    name: "cookie matcher",
    proto: "envoy.config.route.v3.CookieMatcher",
    read: &["name", "invert_match"],
    parts: &[("string_match", &STRING_MATCHER)],
    ..Message::EMPTY
};

pub(crate) const CLIENT_CERTIFICATE: Message = Message {
    name: "client certificate rule",
    proto: "envoy.config.route.v3.RouteMatch.TlsContextMatchOptions",
    read: &["presented", "validated"],
    ..Message::EMPTY
};

pub(crate) const ROUTE_ACTION: Message = Message {
    name: "route action",
    proto: "envoy.config.route.v3.RouteAction",
    read: &[
        "cluster",
        "cluster_header",
        "cluster_not_found_response_code",
        "cluster_specifier_plugin",
        "inline_cluster_specifier_plugin",
    ],
    inert: &[
        "prefix_rewrite",
        "regex_rewrite",
        "path_rewrite",
        "path_rewrite_policy",
        "host_rewrite",
        "host_rewrite_literal",
        "host_rewrite_header",
        "host_rewrite_path_regex",
        "auto_host_rewrite",
        "auto_host_rewrite_header",
        "append_x_forwarded_host",
        "timeout",
        "idle_timeout",
        "flush_timeout",
        "retry_policy",
        "retry_policy_typed_config",
        "request_mirror_policies",
        "priority",
        "rate_limits",
        "include_vh_rate_limits",
        "hash_policy",
        "cors",
        "max_grpc_timeout",
        "grpc_timeout_offset",
        "hedge_policy",
        "max_stream_duration",
        "early_data_policy",
        "internal_redirect_policy",
        "internal_redirect_action",
        "max_internal_redirects",
    ],
    parts: &[
        ("weighted_clusters", &WEIGHTED_CLUSTERS),
        ("upgrade_configs", &ROUTE_UPGRADE),
        ("metadata_match", &METADATA_MATCH),
    ],
    ..Message::EMPTY
};

pub(crate) const WEIGHTED_CLUSTERS: Message = Message {
    name: "list of weighted clusters",
    proto: "envoy.config.route.v3.WeightedCluster",
    inert: &["total_weight", "use_hash_policy"],
    parts: &[("clusters", &WEIGHTED_CLUSTER)],
    ..Message::EMPTY
};

pub(crate) const WEIGHTED_CLUSTER: Message = Message {
    name: "weighted cluster",
    proto: "envoy.config.route.v3.WeightedCluster.ClusterWeight",
    read: &["name", "weight", "typed_per_filter_config"],
    inert: &[
        "request_headers_to_add",
        "request_headers_to_remove",
        "response_headers_to_add",
        "response_headers_to_remove",
        "host_rewrite_literal",
    ],
    ..Message::EMPTY
};

pub(crate) const ROUTE_UPGRADE: Message = Message {
    name: "upgrade of the route",
    proto: "envoy.config.route.v3.RouteAction.UpgradeConfig",
    read: &["upgrade_type", "enabled"],
    parts: &[("connect_config", &CONNECT_CONFIG)],
    ..Message::EMPTY
};

pub(crate) const CONNECT_CONFIG: Message = Message {
    name: "connect_config",
    proto: "envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig",
    inert: &["proxy_protocol_config"],
    ..Message::EMPTY
};

pub(crate) const REDIRECT: Message = Message {
    name: "redirect",
    proto: "envoy.config.route.v3.RedirectAction",
    read: &["response_code"],
    inert: &[
        "host_redirect",
        "port_redirect",
        "strip_query",
        "https_redirect",
        "scheme_redirect",
        "path_redirect",
        "prefix_rewrite",
        "regex_rewrite",
        "path_rewrite",
    ],
    ..Message::EMPTY
};

pub(crate) const ROUTE_RESPONSE: Message = Message {
    name: "direct response",
    proto: "envoy.config.route.v3.DirectResponseAction",
    read: &["status"],
    inert: &["body", "body_format"],
    ..Message::EMPTY
};
