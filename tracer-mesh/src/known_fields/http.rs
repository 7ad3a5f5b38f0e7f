//! The understood fields of the HTTP connection manager and its filters.

use super::common::{FRACTION, HEADER_MATCHER, HEADER_VALUE_OPTION};
use crate::closed_world::Message;

pub(crate) const HCM: Message = Message {
    name: "HTTP connection manager",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    read: &[
        "codec_type",
        "route_config",
        "strip_any_host_port",
        "strip_matching_host_port",
        "strip_trailing_host_dot",
        "max_request_headers_kb",
        "normalize_path",
        "merge_slashes",
        "path_with_escaped_slashes_action",
        "use_remote_address",
        "xff_num_trusted_hops",
    ],
    inert: &[
        "stat_prefix",
        "server_name",
        "access_log",
        "access_log_options",
        "access_log_flush_interval",
        "flush_access_log_on_new_request",
        "tracing",
        "skip_xff_append",
        "generate_request_id",
        "preserve_external_request_id",
        "always_set_request_id_in_response",
        "request_id_extension",
        "forward_client_cert_details",
        "forward_client_cert_matcher",
        "set_current_client_cert_details",
        "proxy_100_continue",
        "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
        "idle_timeout",
        "stream_idle_timeout",
        "stream_flush_timeout",
        "request_timeout",
        "request_headers_timeout",
        "drain_timeout",
        "drain_timeout_jitter",
        "delayed_close_timeout",
        "stream_error_on_invalid_http_message",
        "http1_safe_max_connection_duration",
        "http2_protocol_options",
        "http3_protocol_options",
        "internal_address_config",
        "server_header_transformation",
        "proxy_status_config",
        "append_x_forwarded_port",
        "append_local_overload",
        "add_proxy_protocol_connection_state",
    ],
    parts: &[
        ("rds", &RDS),
        ("scoped_routes", &SCOPED_ROUTES),
        ("http_filters", &HTTP_FILTER),
        ("upgrade_configs", &UPGRADE),
        ("http_protocol_options", &HTTP1_OPTIONS),
        ("common_http_protocol_options", &COMMON_HTTP_OPTIONS),
        ("local_reply_config", &LOCAL_REPLY),
        ("early_header_mutation_extensions", &EARLY_HEADER_MUTATION),
    ],
    ..Message::EMPTY
};

pub(crate) const RDS: Message = Message {
    name: "route discovery",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
    read: &["route_config_name"],
    inert: &["config_source"],
    ..Message::EMPTY
};

pub(crate) const SCOPED_ROUTES: Message = Message {
    name: "list of scoped routes",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes",
    read: &["scope_key_builder", "scoped_rds"],
    inert: &["name", "rds_config_source"],
    parts: &[("scoped_route_configurations_list", &SCOPED_ROUTES_LIST)],
    ..Message::EMPTY
};

pub(crate) const SCOPED_ROUTES_LIST: Message = Message {
    name: "list of scoped routes",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRouteConfigurationsList",
    parts: &[("scoped_route_configurations", &SCOPED_ROUTE)],
    ..Message::EMPTY
};

pub(crate) const SCOPED_ROUTE: Message = Message {
    name: "scope",
    proto: "envoy.config.route.v3.ScopedRouteConfiguration",
    read: &["name", "route_configuration_name", "route_configuration", "key"],
    ..Message::EMPTY
};

pub(crate) const UPGRADE: Message = Message {
    name: "upgrade",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
    read: &["upgrade_type", "enabled", "filters"],
    ..Message::EMPTY
};

pub(crate) const LOCAL_REPLY: Message = Message {
    name: "local reply configuration",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig",
    inert: &["body_format"],
    parts: &[("mappers", &REPLY_MAPPER)],
    ..Message::EMPTY
};

pub(crate) const REPLY_MAPPER: Message = Message {
    name: "rule that changes answers of Envoy's own",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper",
    read: &["filter", "status_code"],
    inert: &["body", "body_format_override", "headers_to_add"],
    ..Message::EMPTY
};

pub(crate) const EARLY_HEADER_MUTATION: Message = Message {
    name: "early header mutation",
    proto: "envoy.config.core.v3.TypedExtensionConfig",
    read: &["name", "typed_config"],
    ..Message::EMPTY
};

pub(crate) const HEADER_MUTATION: Message = Message {
    name: "early header mutation",
    proto: "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
    parts: &[("mutations", &ONE_HEADER_MUTATION)],
    ..Message::EMPTY
};

pub(crate) const ONE_HEADER_MUTATION: Message = Message {
    name: "early header mutation",
    proto: "envoy.config.common.mutation_rules.v3.HeaderMutation",
    read: &["remove"],
    parts: &[("append", &HEADER_VALUE_OPTION)],
    ..Message::EMPTY
};

pub(crate) const HTTP1_OPTIONS: Message = Message {
    name: "http_protocol_options",
    proto: "envoy.config.core.v3.Http1ProtocolOptions",
    read: &["allow_absolute_url", "accept_http_10", "default_host_for_http_10", "allow_chunked_length"],
    inert: &[
        "header_key_format",
        "enable_trailers",
        "override_stream_error_on_invalid_http_message",
        "send_fully_qualified_url",
    ],
    ..Message::EMPTY
};

pub(crate) const COMMON_HTTP_OPTIONS: Message = Message {
    name: "common_http_protocol_options",
    proto: "envoy.config.core.v3.HttpProtocolOptions",
    read: &["max_headers_count", "headers_with_underscores_action"],
    inert: &[
        "idle_timeout",
        "max_connection_duration",
        "max_connection_duration_jitter",
        "max_stream_duration",
        "max_requests_per_connection",
        "max_response_headers_kb",
    ],
    ..Message::EMPTY
};

pub(crate) const HTTP_FILTER: Message = Message {
    name: "HTTP filter",
    proto: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    read: &["name", "typed_config", "config", "disabled"],
    inert: &["is_optional"],
    ..Message::EMPTY
};

/// A filter's configuration, as a route or a virtual host wraps it.
pub(crate) const FILTER_CONFIG: Message = Message {
    name: "filter configuration of a route",
    proto: "envoy.config.route.v3.FilterConfig",
    read: &["config", "disabled"],
    inert: &["is_optional"],
    ..Message::EMPTY
};

pub(crate) const ROUTER: Message = Message {
    name: "router",
    proto: "envoy.extensions.filters.http.router.v3.Router",
    inert: &[
        "dynamic_stats",
        "start_child_span",
        "upstream_log",
        "upstream_log_options",
        "suppress_envoy_headers",
        "respect_expected_rq_timeout",
        "suppress_grpc_request_failure_code_stats",
    ],
    ..Message::EMPTY
};

pub(crate) const FAULT: Message = Message {
    name: "fault filter",
    proto: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    read: &["upstream_cluster", "downstream_nodes", "max_active_faults"],
    inert: &[
        "delay",
        "response_rate_limit",
        "delay_percent_runtime",
        "delay_duration_runtime",
        "response_rate_limit_percent_runtime",
        "disable_downstream_cluster_stats",
        "filter_metadata",
    ],
    parts: &[("abort", &FAULT_ABORT), ("headers", &HEADER_MATCHER)],
    ..Message::EMPTY
};

pub(crate) const FAULT_ABORT: Message = Message {
    name: "abort of the fault filter",
    proto: "envoy.extensions.filters.http.fault.v3.FaultAbort",
    read: &["http_status", "grpc_status", "header_abort"],
    parts: &[("percentage", &FRACTION)],
    ..Message::EMPTY
};

pub(crate) const HTTP_RBAC: Message = Message {
    name: "RBAC filter",
    proto: "envoy.extensions.filters.http.rbac.v3.RBAC",
    read: &["matcher"],
    inert: &[
        "rules_stat_prefix",
        "shadow_rules",
        "shadow_matcher",
        "shadow_rules_stat_prefix",
        "track_per_rule_stats",
    ],
    parts: &[("rules", &RBAC_RULES)],
    ..Message::EMPTY
};

pub(crate) const RBAC_PER_ROUTE: Message = Message {
    name: "RBAC of the route",
    proto: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    parts: &[("rbac", &HTTP_RBAC)],
    ..Message::EMPTY
};

pub(crate) const RBAC_RULES: Message = Message {
    name: "list of RBAC rules",
    proto: "envoy.config.rbac.v3.RBAC",
    read: &["action"],
    inert: &["audit_logging_options"],
    parts: &[("policies", &POLICY)],
    ..Message::EMPTY
};

/// An RBAC policy. Its permissions and principals are read as far as they say "any"; others make the answer uncertain.
pub(crate) const POLICY: Message = Message {
    name: "RBAC policy",
    proto: "envoy.config.rbac.v3.Policy",
    read: &["permissions", "principals", "condition"],
    is_map: true,
    ..Message::EMPTY
};
