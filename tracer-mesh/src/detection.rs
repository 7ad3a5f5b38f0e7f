//! What the listener filters detect in the first bytes of a connection.

use super::http_inspector::{self, Sniff};
use super::listener::{ListenerFilter, ListenerFilterKind};
use super::tls_inspector::{self, Hello};

/// The transport of a connection in which no listener filter found another.
pub(crate) const RAW: &str = "raw_buffer";

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
            ListenerFilterKind::ProxyProtocol { optional } => match proxy_header(head, *optional) {
                ProxyHeader::Absent => {}
                ProxyHeader::Undecided => return Detection::Waits,
                ProxyHeader::Missing => {
                    return Detection::Closes("the listener wants a PROXY protocol header first");
                }
            },
            ListenerFilterKind::HttpInspector
            | ListenerFilterKind::OriginalDst
            | ListenerFilterKind::Passive
            | ListenerFilterKind::Other(_) => {}
        }
    }
    // ActiveTcpSocket::newConnection: "raw_buffer" where nothing was detected.
    if seen.transport.is_empty() {
        RAW.clone_into(&mut seen.transport);
    }
    Detection::Done(seen)
}

/// What a PROXY protocol filter makes of the first bytes.
enum ProxyHeader {
    /// There is none, and none is wanted; or it is there, which an app's own bytes never have.
    Absent,
    /// It may still come.
    Undecided,
    /// It is wanted, and does not come.
    Missing,
}

/// Source: envoy `source/extensions/filters/listener/proxy_protocol/proxy_protocol.cc` `Filter::readProxyHeader`: with fewer
/// bytes than a header of version 2 it waits for the end of a line.
fn proxy_header(head: &[u8], optional: bool) -> ProxyHeader {
    const V1: &[u8] = b"PROXY ";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const V2_LENGTH: usize = 16;
    const V1_LONGEST: usize = 107;
    let may_begin = |signature: &[u8]| head.starts_with(signature) || signature.starts_with(head);
    if head.is_empty() {
        return ProxyHeader::Undecided;
    }
    let has_v2 = head.len() >= V2_LENGTH && head.starts_with(V2);
    if has_v2 || (optional && !may_begin(V1) && !may_begin(V2)) {
        return ProxyHeader::Absent;
    }
    let has_line = head.windows(2).any(|pair| pair == b"\r\n");
    match head.starts_with(V1) {
        true if has_line => ProxyHeader::Absent,
        true if head.len() > V1_LONGEST => ProxyHeader::Missing,
        false if has_line || head.len() >= V2_LENGTH => ProxyHeader::Missing,
        _ => ProxyHeader::Undecided,
    }
}
