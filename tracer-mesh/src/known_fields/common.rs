//! The understood fields of messages that several others hold: addresses, sockets, string and header matchers.

use crate::closed_world::Message;

pub(crate) const ADDRESS: Message = Message {
    name: "address",
    proto: "envoy.config.core.v3.Address",
    read: &["pipe"],
    parts: &[("socket_address", &SOCKET_ADDRESS), ("envoy_internal_address", &INTERNAL_ADDRESS)],
    ..Message::EMPTY
};

pub(crate) const SOCKET_ADDRESS: Message = Message {
    name: "socket address",
    proto: "envoy.config.core.v3.SocketAddress",
    read: &["protocol", "address", "port_value", "ipv4_compat"],
    ..Message::EMPTY
};

pub(crate) const INTERNAL_ADDRESS: Message = Message {
    name: "internal address",
    proto: "envoy.config.core.v3.EnvoyInternalAddress",
    read: &["server_listener_name"],
    inert: &["endpoint_id"],
    ..Message::EMPTY
};

pub(crate) const CIDR_RANGE: Message = Message {
    name: "address range",
    proto: "envoy.config.core.v3.CidrRange",
    read: &["address_prefix", "prefix_len"],
    ..Message::EMPTY
};

/// `metadata_match`: the labels that a host must have.
pub(crate) const METADATA_MATCH: Message = Message {
    name: "metadata match",
    proto: "envoy.config.core.v3.Metadata",
    read: &["filter_metadata"],
    ..Message::EMPTY
};

pub(crate) const TRANSPORT_SOCKET: Message = Message {
    name: "transport socket",
    proto: "envoy.config.core.v3.TransportSocket",
    read: &["name", "typed_config", "config"],
    ..Message::EMPTY
};

pub(crate) const DOWNSTREAM_TLS: Message = Message {
    name: "TLS context of the chain",
    proto: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    read: &["common_tls_context"],
    inert: &[
        "require_client_certificate",
        "require_sni",
        "disable_stateful_session_resumption",
        "disable_stateless_session_resumption",
        "session_timeout",
        "session_ticket_keys",
        "session_ticket_keys_sds_secret_config",
        "ocsp_staple_policy",
        "full_scan_certs_on_sni_mismatch",
        "prefer_client_ciphers",
    ],
    ..Message::EMPTY
};

/// Who is on the other side of it is told by `common_tls_context` and `sni`; that it is TLS does not depend on the rest.
pub(crate) const UPSTREAM_TLS: Message = Message {
    name: "TLS context of the cluster",
    proto: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    read: &["common_tls_context", "sni"],
    inert: &[
        "auto_host_sni",
        "auto_sni_san_validation",
        "allow_renegotiation",
        "max_session_keys",
        "enforce_rsa_key_usage",
    ],
    ..Message::EMPTY
};

pub(crate) const TCP_STATS: Message = Message {
    name: "TCP statistics socket",
    proto: "envoy.extensions.transport_sockets.tcp_stats.v3.Config",
    inert: &["update_period"],
    parts: &[("transport_socket", &TRANSPORT_SOCKET)],
    ..Message::EMPTY
};

pub(crate) const PROXY_PROTOCOL_UPSTREAM: Message = Message {
    name: "PROXY protocol socket",
    proto: "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    read: &["config"],
    inert: &["allow_unspecified_address", "tlv_as_pool_key"],
    parts: &[("transport_socket", &TRANSPORT_SOCKET)],
    ..Message::EMPTY
};

pub(crate) const INTERNAL_UPSTREAM: Message = Message {
    name: "internal upstream socket",
    proto: "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
    inert: &["passthrough_metadata"],
    parts: &[("transport_socket", &TRANSPORT_SOCKET)],
    ..Message::EMPTY
};

pub(crate) const TAP: Message = Message {
    name: "tap socket",
    proto: "envoy.extensions.transport_sockets.tap.v3.Tap",
    inert: &["common_config", "socket_tap_config"],
    parts: &[("transport_socket", &TRANSPORT_SOCKET)],
    ..Message::EMPTY
};

pub(crate) const STRING_MATCHER: Message = Message {
    name: "string matcher",
    proto: "envoy.type.matcher.v3.StringMatcher",
    read: &["ignore_case", "exact", "prefix", "suffix", "contains"],
    parts: &[("safe_regex", &REGEX_MATCHER)],
    ..Message::EMPTY
};

pub(crate) const REGEX_MATCHER: Message = Message {
    name: "regular expression",
    proto: "envoy.type.matcher.v3.RegexMatcher",
    read: &["regex"],
    inert: &["google_re2"],
    ..Message::EMPTY
};

pub(crate) const HEADER_MATCHER: Message = Message {
    name: "header matcher",
    proto: "envoy.config.route.v3.HeaderMatcher",
    read: &[
        "name",
        "invert_match",
        "treat_missing_header_as_empty",
        "exact_match",
        "range_match",
        "present_match",
        "prefix_match",
        "suffix_match",
        "contains_match",
    ],
    parts: &[("safe_regex_match", &REGEX_MATCHER), ("string_match", &STRING_MATCHER)],
    ..Message::EMPTY
};

pub(crate) const HEADER_VALUE_OPTION: Message = Message {
    name: "header to add",
    proto: "envoy.config.core.v3.HeaderValueOption",
    read: &["append_action"],
    parts: &[("header", &HEADER_VALUE)],
    ..Message::EMPTY
};

pub(crate) const HEADER_VALUE: Message = Message {
    name: "header to add",
    proto: "envoy.config.core.v3.HeaderValue",
    read: &["key", "value"],
    ..Message::EMPTY
};

pub(crate) const RUNTIME_FRACTION: Message = Message {
    name: "share of requests",
    proto: "envoy.config.core.v3.RuntimeFractionalPercent",
    parts: &[("default_value", &FRACTION)],
    ..Message::EMPTY
};

pub(crate) const FRACTION: Message = Message {
    name: "share of requests",
    proto: "envoy.type.v3.FractionalPercent",
    read: &["numerator", "denominator"],
    ..Message::EMPTY
};
