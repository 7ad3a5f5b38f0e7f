//! Reads a listener: its listener filters, its filter chains and the filters of each chain.

use serde_json::Value;

use super::chain_match::ChainMatch;
use super::hcm::Hcm;
use super::json::Node;
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
    /// `filter_chain_matcher` is set: chains are chosen by a match tree, which only waypoints and gateways use.
    pub has_matcher: bool,
}

/// A listener filter, as far as it looks at first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerFilter {
    TlsInspector,
    HttpInspector,
    /// `original_dst`, `proxy_protocol`, … with its name.
    Other(String),
}

/// envoy.config.listener.v3.FilterChain.
#[derive(Clone, Debug)]
pub(crate) struct FilterChain {
    pub name: Option<String>,
    pub matches: ChainMatch,
    pub handler: Handler,
    /// Network filters before the one that handles the connection.
    pub before: Vec<String>,
    /// The chain ends TLS itself (`transport_socket`).
    pub terminates_tls: bool,
    /// `metadata.filter_metadata.istio.config`: the VirtualService that a TCP or TLS chain was made from.
    pub made_from: Option<String>,
}

/// What handles the connection in a chain.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    Http(Box<Hcm>),
    Tcp(TcpProxy),
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
            has_matcher: node.field("filter_chain_matcher").exists(),
        }
    }
}

impl ListenerFilter {
    fn read(node: Node<'_>) -> Self {
        let extension = node.extension();
        match extension.message {
            "TlsInspector" => Self::TlsInspector,
            "HttpInspector" => Self::HttpInspector,
            _ => Self::Other(extension.name.to_owned()),
        }
    }
}

impl FilterChain {
    fn read(node: Node<'_>) -> Self {
        let mut before = Vec::new();
        let mut handler = Handler::None;
        for filter in node.field("filters").items() {
            let extension = filter.extension();
            match extension.message {
                "HttpConnectionManager" => handler = Handler::Http(Box::new(Hcm::read(extension.config))),
                "TcpProxy" => handler = Handler::Tcp(TcpProxy::read(extension.config)),
                _ => {
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
            terminates_tls: terminates_tls(node),
            made_from: metadata.key("config").text().map(str::to_owned),
        }
    }
}

fn terminates_tls(chain: Node<'_>) -> bool {
    let socket = chain.field("transport_socket");
    (socket.exists() && !matches!(socket.extension().message, "RawBuffer"))
        || chain.field("tls_context").exists()
}
