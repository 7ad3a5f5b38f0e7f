//! Reads a listener: its listener filters, its filter chains and the filters of each chain.

use serde_json::Value;

use super::chain_match::ChainMatch;
use super::hcm::Hcm;
use super::http_filter::{Effect, rbac};
use super::json::{Extension, Node};
use super::known_fields;
use super::tcp_proxy::TcpProxy;

/// envoy.config.listener.v3.Listener.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub name: Option<String>,
    pub filters: Vec<ListenerFilter>,
    /// `listener_filters_timeout`: `0s` waits without limit; absent means Envoy's 15 s.
    pub timeout: Option<String>,
    pub continue_on_timeout: bool,
    pub chains: Vec<FilterChain>,
    pub default_chain: Option<FilterChain>,
    /// `filter_chain_matcher`: a match tree that names the chain, in place of the chains' own conditions.
    pub matcher: Option<Value>,
    /// Fields that are set and not understood.
    pub unread: Vec<String>,
}

/// A listener filter.
#[derive(Clone, Debug)]
pub(crate) struct ListenerFilter {
    pub kind: ListenerFilterKind,
    /// `filter_disabled`, a `ListenerFilterChainMatchPredicate`.
    pub disabled: Option<Value>,
}

/// What a listener filter does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerFilterKind {
    TlsInspector,
    HttpInspector,
    /// Restores the address that the app dialed.
    OriginalDst,
    /// Wants a PROXY protocol header first; `optional` where it takes connections without one.
    ProxyProtocol {
        optional: bool,
    },
    /// Does not look at the bytes.
    Passive,
    /// Another one, by its name.
    Other(String),
}

/// envoy.config.listener.v3.FilterChain.
#[derive(Clone, Debug)]
pub(crate) struct FilterChain {
    pub name: Option<String>,
    pub matches: ChainMatch,
    pub handler: Handler,
    /// Network filters before the one that handles the connection, by name.
    pub before: Vec<String>,
    /// An RBAC filter refuses every connection, and what Envoy logs of it.
    pub denied: Option<String>,
    /// The cluster that a `set_filter_state` filter puts in the place of the TCP proxy's.
    pub cluster_override: Option<String>,
    pub socket: Socket,
    /// `metadata.filter_metadata.istio.config`: the VirtualService that a TCP or TLS chain was made from.
    pub made_from: Option<String>,
    /// Fields that are set and not understood.
    pub unread: Vec<String>,
}

/// What a chain's or a cluster's transport socket speaks, without its wrappers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    Plaintext,
    Tls,
    /// Another one, by its name.
    Other(String),
}

/// What handles the connection in a chain.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    Http(Box<Hcm>),
    Tcp(TcpProxy),
    /// `direct_response`: sends these bytes and closes.
    Answer(String),
    /// Another protocol's filter (redis, dubbo, `sni_dynamic_forward_proxy`, …), by its name.
    Other(String),
    /// No filter at all: Envoy closes such a connection.
    None,
}

impl Listener {
    pub(crate) fn read(value: &Value) -> Self {
        let node = Node::of(value);
        let default_chain = node.field("default_filter_chain");
        Self {
            name: node.field("name").text().map(str::to_owned),
            filters: node.field("listener_filters").items().map(ListenerFilter::read).collect(),
            timeout: node.field("listener_filters_timeout").str().map(str::to_owned),
            continue_on_timeout: node.field("continue_on_listener_filters_timeout").is_true(),
            chains: node.field("filter_chains").items().map(FilterChain::read).collect(),
            default_chain: default_chain.exists().then(|| FilterChain::read(default_chain)),
            matcher: node.field("filter_chain_matcher").value().cloned(),
            unread: known_fields::LISTENER.unread(node),
        }
    }
}

impl ListenerFilter {
    fn read(node: Node<'_>) -> Self {
        let extension = node.extension();
        let kind = match extension.message {
            "TlsInspector" => ListenerFilterKind::TlsInspector,
            "HttpInspector" => ListenerFilterKind::HttpInspector,
            "OriginalDst" => ListenerFilterKind::OriginalDst,
            "ProxyProtocol" => ListenerFilterKind::ProxyProtocol {
                optional: extension.config.field("allow_requests_without_proxy_protocol").is_true(),
            },
            "OriginalSrc" => ListenerFilterKind::Passive,
            _ if extension.name.ends_with("original_dst") => ListenerFilterKind::OriginalDst,
            _ => ListenerFilterKind::Other(extension.name.to_owned()),
        };
        Self { kind, disabled: node.field("filter_disabled").value().cloned() }
    }

    /// Whether it waits for the first bytes.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.kind, ListenerFilterKind::OriginalDst | ListenerFilterKind::Passive)
    }

    /// Whether the filter is left out on `port`; `None` where its predicate is not understood.
    pub(crate) fn is_disabled(&self, port: u16) -> Option<bool> {
        self.disabled.as_ref().map_or(Some(false), |predicate| holds(Node::of(predicate), port))
    }
}

/// envoy.config.listener.v3.ListenerFilterChainMatchPredicate.
fn holds(predicate: Node<'_>, port: u16) -> Option<bool> {
    let range = predicate.field("destination_port_range");
    if range.exists() {
        // Int32Range: the end is not part of it.
        let (start, end) =
            (range.field("start").integer().unwrap_or(0), range.field("end").integer().unwrap_or(0));
        return Some((start..end).contains(&i64::from(port)));
    }
    if predicate.field("any_match").is_true() {
        return Some(true);
    }
    let negated = predicate.field("not_match");
    if negated.exists() {
        return holds(negated, port).map(|holds| !holds);
    }
    for (name, all) in [("and_match", true), ("or_match", false)] {
        let group = predicate.field(name);
        if group.exists() {
            let rules: Option<Vec<bool>> =
                group.field("rules").items().map(|rule| holds(rule, port)).collect();
            return rules
                .map(|rules| if all { rules.iter().all(|rule| *rule) } else { rules.contains(&true) });
        }
    }
    None
}

impl FilterChain {
    fn read(node: Node<'_>) -> Self {
        let mut before = Vec::new();
        let mut handler = Handler::None;
        let mut cluster_override = None;
        let mut denied = None;
        let mut unread = known_fields::FILTER_CHAIN.unread(node);
        for filter in node.field("filters").items() {
            let extension = filter.extension();
            match extension.message {
                "HttpConnectionManager" => handler = Handler::Http(Box::new(Hcm::read(extension.config))),
                "TcpProxy" => handler = Handler::Tcp(TcpProxy::read(extension.config)),
                "Config" if extension.name.ends_with("direct_response") => {
                    let response = extension.config.field("response");
                    handler =
                        Handler::Answer(response.field("inline_string").str().unwrap_or_default().to_owned());
                }
                "RBAC" => match rbac(extension.config) {
                    Effect::Passes => continue,
                    Effect::Answers { details, .. } => {
                        denied = denied.or(Some(details));
                        continue;
                    }
                    Effect::MayAnswer => {
                        before.push(extension.name.to_owned());
                        continue;
                    }
                },
                _ => {
                    if extension.name.ends_with("set_filter_state") {
                        cluster_override =
                            cluster_of_filter_state(&extension, &mut unread).or(cluster_override);
                    }
                    before.push(extension.name.to_owned());
                    continue;
                }
            }
            break;
        }
        // Without either, the last filter is the one that must end the chain (ListenerImpl: "non-terminal filter").
        if matches!(handler, Handler::None)
            && let Some(last) = before.pop()
        {
            handler = Handler::Other(last);
        }
        let metadata = node.field("metadata").field("filter_metadata").key("istio");
        Self {
            name: node.field("name").text().map(str::to_owned),
            matches: ChainMatch::read(node.field("filter_chain_match")),
            handler,
            before,
            denied,
            cluster_override,
            socket: if node.field("tls_context").exists() {
                Socket::Tls
            } else {
                Socket::read(node.field("transport_socket"))
            },
            made_from: metadata.key("config").text().map(str::to_owned),
            unread,
        }
    }
}

/// Source: envoy `source/extensions/filters/network/set_filter_state` and `PerConnectionCluster::key()`, which the TCP
/// proxy asks first.
fn cluster_of_filter_state(extension: &Extension<'_>, unread: &mut Vec<String>) -> Option<String> {
    let mut cluster = None;
    for value in extension.config.field("on_new_connection").items() {
        let key = value.field("object_key").str().unwrap_or_default();
        if key == "envoy.tcp_proxy.cluster" {
            let format = value.field("format_string").field("text_format_source").field("inline_string");
            match format.str() {
                Some(name) if !name.contains('%') => cluster = Some(name.to_owned()),
                _ => unread.push("the filter chain takes its cluster from a format string".to_owned()),
            }
        } else if key.starts_with("envoy.tcp_proxy") || key.starts_with("envoy.upstream") {
            unread.push(format!("the filter chain sets the filter state {key}, which is not evaluated here"));
        }
    }
    cluster
}

impl Socket {
    /// An absent transport socket is plaintext.
    pub(crate) fn read(node: Node<'_>) -> Self {
        if !node.exists() {
            return Self::Plaintext;
        }
        let extension = node.extension();
        if let Some(inner) = wrapped_socket(&extension) {
            return Self::read(inner);
        }
        match extension.message {
            "RawBuffer" => Self::Plaintext,
            "UpstreamTlsContext" | "DownstreamTlsContext" | "QuicDownstreamTransport" => Self::Tls,
            "" if extension.name.ends_with("raw_buffer") => Self::Plaintext,
            "" if extension.name.ends_with("tls") => Self::Tls,
            _ => Self::Other(extension.name.to_owned()),
        }
    }
}

/// The socket inside a wrapper that leaves the bytes as they are. Others (`http_11_proxy`, `starttls`) do not.
pub(crate) fn wrapped_socket<'a>(extension: &Extension<'a>) -> Option<Node<'a>> {
    let wrappers = [
        "tcp_stats.v3.Config",
        "proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "internal_upstream.v3.InternalUpstreamTransport",
        "tap.v3.Tap",
    ];
    let inner = extension.config.field("transport_socket");
    (inner.exists() && wrappers.iter().any(|name| extension.type_url.ends_with(name))).then_some(inner)
}
