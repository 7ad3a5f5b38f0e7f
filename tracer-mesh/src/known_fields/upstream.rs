//! The understood fields of clusters and their endpoints.

use super::common::{ADDRESS, SOCKET_ADDRESS, TRANSPORT_SOCKET};
use crate::closed_world::Message;

pub(crate) const CLUSTER: Message = Message {
    name: "cluster",
    proto: "envoy.config.cluster.v3.Cluster",
    read: &[
        "name",
        "type",
        "cluster_type",
        "hosts",
        "tls_context",
        "metadata",
        "original_dst_lb_config",
        "load_balancing_policy",
        "filters",
    ],
    inert: &[
        "alt_stat_name",
        "connect_timeout",
        "per_connection_buffer_limit_bytes",
        "per_connection_buffer_high_watermark_timeout",
        "http_protocol_options",
        "http2_protocol_options",
        "common_http_protocol_options",
        "upstream_http_protocol_options",
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
        "track_timeout_budgets",
        "track_cluster_stats",
        "lrs_server",
        "lrs_report_endpoint_metrics",
        "preconnect_policy",
        "protocol_selection",
        "connection_pool_per_downstream_connection",
        "upstream_connection_options",
        "max_requests_per_connection",
        "close_connections_on_host_health_failure",
        "ignore_health_on_host_removal",
    ],
    parts: &[
        ("load_assignment", &LOAD_ASSIGNMENT),
        ("transport_socket", &TRANSPORT_SOCKET),
        ("transport_socket_matches", &TRANSPORT_SOCKET_MATCH),
        ("common_lb_config", &COMMON_LB),
        ("circuit_breakers", &CIRCUIT_BREAKERS),
        ("lb_subset_config", &LB_SUBSET),
        ("upstream_bind_config", &UPSTREAM_BIND),
        ("typed_extension_protocol_options", &PROTOCOL_OPTIONS),
    ],
    ..Message::EMPTY
};

/// An entry of `typed_extension_protocol_options`, looked up by its own type.
pub(crate) const PROTOCOL_OPTIONS: Message = Message { is_map: true, ..UPSTREAM_HTTP };

pub(crate) const UPSTREAM_HTTP: Message = Message {
    name: "HTTP protocol options of the cluster",
    proto: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    inert: &[
        "common_http_protocol_options",
        "upstream_http_protocol_options",
        "header_validation_config",
        "outlier_detection",
        "request_mirror_policies",
        "hash_policy",
        "retry_policy",
        "explicit_http_config",
        "use_downstream_protocol_config",
        "auto_config",
    ],
    ..Message::EMPTY
};

pub(crate) const TRANSPORT_SOCKET_MATCH: Message = Message {
    name: "transport socket match",
    proto: "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
    read: &["name", "match"],
    parts: &[("transport_socket", &TRANSPORT_SOCKET)],
    ..Message::EMPTY
};

pub(crate) const COMMON_LB: Message = Message {
    name: "load balancing of the cluster",
    proto: "envoy.config.cluster.v3.Cluster.CommonLbConfig",
    read: &["healthy_panic_threshold"],
    inert: &[
        "update_merge_window",
        "close_connections_on_host_set_change",
        "consistent_hashing_lb_config",
        "zone_aware_lb_config",
        "locality_weighted_lb_config",
    ],
    ..Message::EMPTY
};

pub(crate) const CIRCUIT_BREAKERS: Message = Message {
    name: "list of circuit breakers",
    proto: "envoy.config.cluster.v3.CircuitBreakers",
    parts: &[("thresholds", &THRESHOLDS)],
    ..Message::EMPTY
};

pub(crate) const THRESHOLDS: Message = Message {
    name: "circuit breaker",
    proto: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
    read: &["priority", "max_connections", "max_pending_requests", "max_requests"],
    inert: &["max_retries", "retry_budget", "track_remaining", "max_connection_pools"],
    ..Message::EMPTY
};

pub(crate) const LB_SUBSET: Message = Message {
    name: "subset configuration of the cluster",
    proto: "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
    read: &["fallback_policy", "default_subset"],
    inert: &["locality_weight_aware", "scale_locality_weight"],
    parts: &[("subset_selectors", &SUBSET_SELECTOR)],
    ..Message::EMPTY
};

pub(crate) const SUBSET_SELECTOR: Message = Message {
    name: "subset selector",
    proto: "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
    read: &["keys"],
    ..Message::EMPTY
};

/// Istio's inbound clusters dial from 127.0.0.6; another address is named by the reader of clusters.
pub(crate) const UPSTREAM_BIND: Message = Message {
    name: "upstream bind configuration",
    proto: "envoy.config.core.v3.BindConfig",
    inert: &["freebind", "socket_options", "extra_source_addresses", "additional_source_addresses"],
    parts: &[("source_address", &SOCKET_ADDRESS)],
    ..Message::EMPTY
};

pub(crate) const LOAD_ASSIGNMENT: Message = Message {
    name: "list of endpoints",
    proto: "envoy.config.endpoint.v3.ClusterLoadAssignment",
    read: &["cluster_name"],
    parts: &[("endpoints", &LOCALITY_ENDPOINTS), ("policy", &ENDPOINT_POLICY)],
    ..Message::EMPTY
};

pub(crate) const ENDPOINT_POLICY: Message = Message {
    name: "policy of the endpoints",
    proto: "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
    inert: &["overprovisioning_factor", "endpoint_stale_after", "weighted_priority_health"],
    ..Message::EMPTY
};

pub(crate) const LOCALITY_ENDPOINTS: Message = Message {
    name: "locality",
    proto: "envoy.config.endpoint.v3.LocalityLbEndpoints",
    inert: &["locality", "metadata", "load_balancing_weight", "priority", "proximity"],
    parts: &[("lb_endpoints", &LB_ENDPOINT)],
    ..Message::EMPTY
};

pub(crate) const LB_ENDPOINT: Message = Message {
    name: "endpoint",
    proto: "envoy.config.endpoint.v3.LbEndpoint",
    read: &["health_status", "metadata"],
    inert: &["load_balancing_weight"],
    parts: &[("endpoint", &ENDPOINT)],
    ..Message::EMPTY
};

pub(crate) const ENDPOINT: Message = Message {
    name: "endpoint",
    proto: "envoy.config.endpoint.v3.Endpoint",
    inert: &["health_check_config", "hostname", "observability_name"],
    parts: &[("address", &ADDRESS)],
    ..Message::EMPTY
};
