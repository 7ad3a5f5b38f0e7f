//! The understood fields of the messages that decide on a connection: listeners, filter chains, TCP proxies.

use super::common::{ADDRESS, CIDR_RANGE, METADATA_MATCH, TRANSPORT_SOCKET};
use super::http::RBAC_RULES;
use crate::closed_world::Message;

pub(crate) const LISTENER: Message = Message {
    name: "listener",
    proto: "envoy.config.listener.v3.Listener",
    read: &[
        "name",
        "filter_chains",
        "filter_chain_matcher",
        "use_original_dst",
        "default_filter_chain",
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
        "per_connection_buffer_high_watermark_timeout",
        "metadata",
        "access_log",
        "drain_type",
        "transparent",
        "freebind",
        "socket_options",
        "tcp_fast_open_queue_length",
        "tcp_backlog_size",
        "tcp_keepalive",
        "reuse_port",
        "enable_reuse_port",
        "connection_balance_config",
        "max_connections_to_accept_per_socket_event",
        "enable_mptcp",
        "bypass_overload_manager",
    ],
    parts: &[
        ("address", &ADDRESS),
        ("additional_addresses", &ADDITIONAL_ADDRESS),
        ("listener_filters", &LISTENER_FILTER),
    ],
    ..Message::EMPTY
};

pub(crate) const ADDITIONAL_ADDRESS: Message = Message {
    name: "additional address",
    proto: "envoy.config.listener.v3.AdditionalAddress",
    inert: &["socket_options", "tcp_keepalive"],
    parts: &[("address", &ADDRESS)],
    ..Message::EMPTY
};

pub(crate) const LISTENER_FILTER: Message = Message {
    name: "listener filter",
    proto: "envoy.config.listener.v3.ListenerFilter",
    read: &["name", "typed_config", "config"],
    parts: &[("filter_disabled", &FILTER_PREDICATE)],
    ..Message::EMPTY
};

pub(crate) const FILTER_PREDICATE: Message = Message {
    name: "rule that disables a listener filter",
    proto: "envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
    read: &["or_match", "and_match", "not_match", "any_match", "destination_port_range"],
    ..Message::EMPTY
};

pub(crate) const TLS_INSPECTOR: Message = Message {
    name: "TLS inspector",
    proto: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    inert: &["enable_ja3_fingerprinting", "enable_ja4_fingerprinting", "initial_read_buffer_size"],
    ..Message::EMPTY
};

pub(crate) const HTTP_INSPECTOR: Message = Message {
    name: "HTTP inspector",
    proto: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    ..Message::EMPTY
};

pub(crate) const ORIGINAL_DST: Message = Message {
    name: "original destination filter",
    proto: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    ..Message::EMPTY
};

pub(crate) const ORIGINAL_SRC: Message = Message {
    name: "original source filter",
    proto: "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
    inert: &["bind_port", "mark"],
    ..Message::EMPTY
};

pub(crate) const PROXY_PROTOCOL: Message = Message {
    name: "PROXY protocol filter",
    proto: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    read: &["allow_requests_without_proxy_protocol"],
    inert: &["rules", "pass_through_tlvs", "stat_prefix", "tlv_location"],
    ..Message::EMPTY
};

pub(crate) const FILTER_CHAIN: Message = Message {
    name: "filter chain",
    proto: "envoy.config.listener.v3.FilterChain",
    read: &["name", "tls_context", "metadata"],
    inert: &["transport_socket_connect_timeout"],
    parts: &[
        ("filter_chain_match", &CHAIN_MATCH),
        ("filters", &NETWORK_FILTER),
        ("transport_socket", &TRANSPORT_SOCKET),
    ],
    ..Message::EMPTY
};

pub(crate) const CHAIN_MATCH: Message = Message {
    name: "filter chain match",
    proto: "envoy.config.listener.v3.FilterChainMatch",
    read: &[
        "destination_port",
        "server_names",
        "transport_protocol",
        "application_protocols",
        "source_type",
        "source_ports",
    ],
    parts: &[
        ("prefix_ranges", &CIDR_RANGE),
        ("direct_source_prefix_ranges", &CIDR_RANGE),
        ("source_prefix_ranges", &CIDR_RANGE),
    ],
    ..Message::EMPTY
};

pub(crate) const NETWORK_FILTER: Message = Message {
    name: "network filter",
    proto: "envoy.config.listener.v3.Filter",
    read: &["name", "typed_config", "config"],
    ..Message::EMPTY
};

pub(crate) const TCP_PROXY: Message = Message {
    name: "TCP proxy",
    proto: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    read: &["cluster", "tunneling_config"],
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
        "proxy_protocol_tlvs",
        "proxy_protocol_tlv_merge_policy",
        "check_drain_close",
    ],
    parts: &[("weighted_clusters", &TCP_WEIGHTED_CLUSTERS), ("metadata_match", &METADATA_MATCH)],
    ..Message::EMPTY
};

pub(crate) const TCP_WEIGHTED_CLUSTERS: Message = Message {
    name: "list of weighted clusters",
    proto: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
    parts: &[("clusters", &TCP_WEIGHTED_CLUSTER)],
    ..Message::EMPTY
};

pub(crate) const TCP_WEIGHTED_CLUSTER: Message = Message {
    name: "weighted cluster",
    proto: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
    read: &["name", "weight"],
    ..Message::EMPTY
};

pub(crate) const DIRECT_RESPONSE: Message = Message {
    name: "direct response filter",
    proto: "envoy.extensions.filters.network.direct_response.v3.Config",
    read: &["response"],
    ..Message::EMPTY
};

pub(crate) const SET_FILTER_STATE: Message = Message {
    name: "filter state filter",
    proto: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    inert: &["on_downstream_tls_handshake"],
    parts: &[("on_new_connection", &FILTER_STATE_VALUE)],
    ..Message::EMPTY
};

pub(crate) const FILTER_STATE_VALUE: Message = Message {
    name: "filter state value",
    proto: "envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue",
    read: &["object_key", "factory_key", "format_string"],
    inert: &["read_only", "shared_with_upstream", "skip_if_empty"],
    ..Message::EMPTY
};

pub(crate) const NETWORK_RBAC: Message = Message {
    name: "network RBAC filter",
    proto: "envoy.extensions.filters.network.rbac.v3.RBAC",
    read: &["matcher"],
    inert: &[
        "shadow_rules",
        "shadow_matcher",
        "shadow_rules_stat_prefix",
        "stat_prefix",
        "enforcement_type",
        "delay_deny",
    ],
    parts: &[("rules", &RBAC_RULES)],
    ..Message::EMPTY
};
