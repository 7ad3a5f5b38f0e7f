//! What the listener filters detect in the first bytes of a connection.

use super::http_inspector::{self, Sniff};
use super::listener::{ListenerFilter, ListenerFilterKind};
use super::tls_inspector::{self, Hello};

/// What the listener filters know of a connection.
pub(crate) struct Seen {
    pub transport: String,
    pub server_name: String,
    pub applications: Vec<String>,
}

/// How the listener filters end.
pub(crate) enum Detection {
    /// They all passed.
    Done(Seen),
    /// One waits for more bytes.
    Waits,
    /// One closes the connection, and why.
    Closes(&'static str),
}

/// Runs listener filters in order. Source: envoy `source/common/listener_manager/active_tcp_socket.cc`
/// `ActiveTcpSocket::continueFilterChain`; a redirected connection keeps what was detected before.
pub(crate) fn detect(filters: &[&ListenerFilter], head: &[u8]) -> Detection {
    let mut seen = Seen { transport: String::new(), server_name: String::new(), applications: Vec::new() };
    for filter in filters {
        match &filter.kind {
            ListenerFilterKind::TlsInspector => match tls_inspector::inspect(head) {
                Hello::Tls { server_name, protocols } => {
                    "tls".clone_into(&mut seen.transport);
                    seen.server_name = server_name;
                    seen.applications = protocols;
                }
                Hello::NotTls => {}
                Hello::Undecided => return Detection::Waits,
            },
            // `Filter::onAccept`: only if the transport is still plain.
            ListenerFilterKind::HttpInspector if seen.transport.is_empty() => {
                match http_inspector::sniff(head) {
                    Sniff::Protocol(protocol) => seen.applications = vec![protocol.to_owned()],
                    Sniff::NotHttp => {}
                    Sniff::Undecided => return Detection::Waits,
                    Sniff::TooLong => return Detection::Closes("its request line does not end"),
                }
            }
            // proxy_protocol.cc `Filter::onData`: a connection without the header is closed.
            ListenerFilterKind::ProxyProtocol { optional: false } if !has_proxy_header(head) => {
                return Detection::Closes("the listener wants a PROXY protocol header first");
            }
            ListenerFilterKind::HttpInspector
            | ListenerFilterKind::OriginalDst
            | ListenerFilterKind::ProxyProtocol { .. }
            | ListenerFilterKind::Passive
            | ListenerFilterKind::Other(_) => {}
        }
    }
    // ActiveTcpSocket::newConnection: "raw_buffer" where nothing was detected.
    if seen.transport.is_empty() {
        "raw_buffer".clone_into(&mut seen.transport);
    }
    Detection::Done(seen)
}

fn has_proxy_header(head: &[u8]) -> bool {
    head.starts_with(b"PROXY ") || head.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}
