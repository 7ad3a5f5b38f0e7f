//! Which fields of Envoy's messages the evaluator understands. Any other field that is set on the way of a connection
//! makes the answer uncertain, and is named.
//!
//! `read` fields take part in the decision; `inert` fields cannot change what becomes of a first request (statistics,
//! logs, timeouts, headers of answers). The field names are those of the v3 API, read at Envoy 1.40
//! (`api/envoy/config/{listener,route,cluster}/v3`, `api/envoy/extensions`).

use serde_json::Value;

use super::json::{Node, snake_case};

/// One message type.
pub(crate) struct Message {
    /// What a caveat calls it.
    name: &'static str,
    read: &'static [&'static str],
    inert: &'static [&'static str],
}

pub(crate) const LISTENER: Message = Message {
    name: "listener",
    read: &[
        "name",
        "address",
        "additional_addresses",
        "filter_chains",
        "filter_chain_matcher",
        "use_original_dst",
        "default_filter_chain",
        "listener_filters",
        "listener_filters_timeout",
        "continue_on_listener_filters_timeout",
        "traffic_direction",
        "bind_to_port",
        "deprecated_v1",
        "internal_listener",
    ],
    inert: &[
        "stat_prefix",
        "per_connection_buffer_limit_bytes",
        "metadata",
        "access_log",
        "drain_type",
        "transparent",
        "freebind",
        "socket_options",
        "tcp_fast_open_queue_length",
        "tcp_backlog_size",
        "reuse_port",
        "enable_reuse_port",
        "connection_balance_config",
        "max_connections_to_accept_per_socket_event",
        "enable_mptcp",
        "bypass_overload_manager",
    ],
};

pub(crate) const LISTENER_FILTER: Message = Message {
    name: "listener filter",
    read: &["name", "typed_config", "config", "config_discovery", "filter_disabled"],
    inert: &[],
};

pub(crate) const FILTER_CHAIN: Message = Message {
    name: "filter chain",
    read: &["name", "filter_chain_match", "filters", "transport_socket", "tls_context", "metadata"],
    inert: &["transport_socket_connect_timeout"],
};

pub(crate) const CHAIN_MATCH: Message = Message {
    name: "filter chain match",
    read: &[
        "destination_port",
        "prefix_ranges",
        "server_names",
        "transport_protocol",
        "application_protocols",
        "direct_source_prefix_ranges",
        "source_type",
        "source_prefix_ranges",
        "source_ports",
    ],
    inert: &[],
};

pub(crate) const NETWORK_FILTER: Message = Message {
    name: "network filter",
    read: &["name", "typed_config", "config", "config_discovery"],
    inert: &[],
};

pub(crate) const TCP_PROXY: Message = Message {
    name: "TCP proxy",
    read: &["cluster", "weighted_clusters", "tunneling_config", "metadata_match"],
    inert: &[
        "stat_prefix",
        "access_log",
        "access_log_options",
        "idle_timeout",
        "downstream_idle_timeout",
        "upstream_idle_timeout",
        "hash_policy",
        "max_connect_attempts",
        "backoff_options",
        "max_downstream_connection_duration",
        "max_downstream_connection_duration_jitter_percentage",
        "access_log_flush_interval",
        "flush_access_log_on_connected",
    ],
};

pub(crate) const HCM: Message = Message {
    name: "HTTP connection manager",
    read: &[
        "codec_type",
        "rds",
        "route_config",
        "scoped_routes",
        "http_filters",
        "upgrade_configs",
        "http_protocol_options",
        "common_http_protocol_options",
        "strip_any_host_port",
        "strip_matching_host_port",
        "strip_trailing_host_dot",
        "max_request_headers_kb",
        "normalize_path",
        "merge_slashes",
        "path_with_escaped_slashes_action",
        "local_reply_config",
        "early_header_mutation_extensions",
    ],
    inert: &[
        "stat_prefix",
        "server_name",
        "access_log",
        "access_log_options",
        "access_log_flush_interval",
        "flush_access_log_on_new_request",
        "tracing",
        "add_user_agent",
        "use_remote_address",
        "xff_num_trusted_hops",
        "skip_xff_append",
        "via",
        "generate_request_id",
        "preserve_external_request_id",
        "always_set_request_id_in_response",
        "request_id_extension",
        "forward_client_cert_details",
        "set_current_client_cert_details",
        "proxy_100_continue",
        "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
        "stream_idle_timeout",
        "request_timeout",
        "request_headers_timeout",
        "drain_timeout",
        "delayed_close_timeout",
        "stream_error_on_invalid_http_message",
        "http2_protocol_options",
        "http3_protocol_options",
        "internal_address_config",
        "server_header_transformation",
        "proxy_status_config",
        "append_x_forwarded_port",
        "append_local_overload",
        "original_ip_detection_extensions",
    ],
};

pub(crate) const HTTP1_OPTIONS: Message = Message {
    name: "http_protocol_options",
    read: &["allow_absolute_url", "accept_http_10", "default_host_for_http_10", "allow_chunked_length"],
    inert: &[
        "header_key_format",
        "enable_trailers",
        "override_stream_error_on_invalid_http_message",
        "send_fully_qualified_url",
        "use_balsa_parser",
    ],
};

pub(crate) const COMMON_HTTP_OPTIONS: Message = Message {
    name: "common_http_protocol_options",
    read: &["max_headers_count", "headers_with_underscores_action"],
    inert: &[
        "idle_timeout",
        "max_connection_duration",
        "max_stream_duration",
        "max_requests_per_connection",
        "max_response_headers_kb",
    ],
};

pub(crate) const HTTP_FILTER: Message = Message {
    name: "HTTP filter",
    read: &["name", "typed_config", "config", "config_discovery", "disabled"],
    inert: &["is_optional"],
};

pub(crate) const ROUTE_CONFIG: Message = Message {
    name: "route configuration",
    read: &["name", "virtual_hosts", "ignore_port_in_host_matching"],
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
};

pub(crate) const VIRTUAL_HOST: Message = Message {
    name: "virtual host",
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
};

pub(crate) const ROUTE: Message = Message {
    name: "route",
    read: &["name", "match", "route", "redirect", "direct_response", "metadata", "typed_per_filter_config"],
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
};

pub(crate) const ROUTE_MATCH: Message = Message {
    name: "route match",
    read: &[
        "prefix",
        "path",
        "path_separated_prefix",
        "safe_regex",
        "regex",
        "connect_matcher",
        "case_sensitive",
        "runtime_fraction",
        "headers",
        "query_parameters",
        "grpc",
        "tls_context",
        "dynamic_metadata",
        "filter_state",
        "cookies",
        "path_match_policy",
    ],
    inert: &[],
};

pub(crate) const ROUTE_ACTION: Message = Message {
    name: "route action",
    read: &[
        "cluster",
        "weighted_clusters",
        "cluster_header",
        "cluster_not_found_response_code",
        "upgrade_configs",
        "metadata_match",
        "cluster_specifier_plugin",
        "inline_cluster_specifier_plugin",
    ],
    inert: &[
        "prefix_rewrite",
        "regex_rewrite",
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
};

pub(crate) const CLUSTER: Message = Message {
    name: "cluster",
    read: &[
        "name",
        "type",
        "cluster_type",
        "load_assignment",
        "hosts",
        "transport_socket",
        "transport_socket_matches",
        "tls_context",
        "metadata",
        "common_lb_config",
        "circuit_breakers",
        "lb_subset_config",
        "original_dst_lb_config",
    ],
    inert: &[
        "alt_stat_name",
        "connect_timeout",
        "per_connection_buffer_limit_bytes",
        "http_protocol_options",
        "http2_protocol_options",
        "common_http_protocol_options",
        "upstream_http_protocol_options",
        "typed_extension_protocol_options",
        "extension_protocol_options",
        "dns_refresh_rate",
        "dns_failure_refresh_rate",
        "dns_jitter",
        "dns_lookup_family",
        "dns_resolvers",
        "dns_resolution_config",
        "typed_dns_resolver_config",
        "use_tcp_for_dns_lookups",
        "respect_dns_ttl",
        "wait_for_warm_on_init",
        "outlier_detection",
        "cleanup_interval",
        "lb_policy",
        "eds_cluster_config",
        "ring_hash_lb_config",
        "maglev_lb_config",
        "round_robin_lb_config",
        "least_request_lb_config",
        "load_balancing_policy",
        "track_timeout_budgets",
        "track_cluster_stats",
        "preconnect_policy",
        "protocol_selection",
        "connection_pool_per_downstream_connection",
        "upstream_connection_options",
        "upstream_bind_config",
        "max_requests_per_connection",
        "close_connections_on_host_health_failure",
        "ignore_health_on_host_removal",
        "health_checks",
        "upstream_config",
    ],
};

/// All of them, for documentation.
#[cfg(test)]
const ALL: [&Message; 16] = [
    &LISTENER,
    &LISTENER_FILTER,
    &FILTER_CHAIN,
    &CHAIN_MATCH,
    &NETWORK_FILTER,
    &TCP_PROXY,
    &HCM,
    &HTTP1_OPTIONS,
    &COMMON_HTTP_OPTIONS,
    &HTTP_FILTER,
    &ROUTE_CONFIG,
    &VIRTUAL_HOST,
    &ROUTE,
    &ROUTE_MATCH,
    &ROUTE_ACTION,
    &CLUSTER,
];

impl Message {
    /// A caveat for each field of `node` that is set and not understood.
    pub(crate) fn unread(&self, node: Node<'_>) -> Vec<String> {
        let members = node.members().into_iter().flatten();
        let mut fields: Vec<String> = members
            .filter(|(_, value)| is_set(value))
            .map(|(key, _)| snake_case(key.strip_prefix("hidden_envoy_deprecated_").unwrap_or(key)))
            .filter(|field| {
                field != "@type"
                    && !self.read.contains(&field.as_str())
                    && !self.inert.contains(&field.as_str())
            })
            .map(|field| format!("the {} sets {field}, which is not evaluated here", self.name))
            .collect();
        fields.sort();
        fields
    }
}

/// Whether a value differs from protobuf's default. An empty message counts: its presence can mean something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Object(_) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_that_no_table_has_is_named() {
        let listener = json!({"@type": "x", "name": "a", "statPrefix": "s", "udpListenerConfig": {}, "apiListener": null,
            "socket_options": [], "new_field": 1, "other_field": 0});
        let unread = LISTENER.unread(Node::of(&listener));
        assert_eq!(
            unread,
            [
                "the listener sets new_field, which is not evaluated here",
                "the listener sets udp_listener_config, which is not evaluated here",
            ]
        );
    }

    #[test]
    fn no_field_is_both_read_and_inert() {
        for message in ALL {
            for field in message.read {
                assert!(!message.inert.contains(field), "{} {field}", message.name);
            }
        }
    }
}
