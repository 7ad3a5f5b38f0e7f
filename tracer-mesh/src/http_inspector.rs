//! What Envoy's `http_inspector` detects in a connection's first bytes: it reads the request line as strictly as the HTTP
//! parser behind it, and is undecided as long as a further byte could change the answer.
//!
//! Source: envoy `source/extensions/filters/listener/http_inspector/http_inspector.cc` `Filter::parseHttpHeader`,
//! with the `BalsaParser` behind it (any method; older Envoys used http-parser, which knows a list of methods).

use super::request_line::{Methods, RequestLine, is_token};

/// The verdict on some first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sniff {
    /// `http/1.1`, `http/1.0` (any other version, and none) or `h2c`.
    Protocol(&'static str),
    NotHttp,
    /// More bytes are needed.
    Undecided,
    /// So many bytes without an end of line that Envoy closes the connection.
    TooLong,
}

/// `Filter::HTTP2_CONNECTION_PREFACE`.
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `Config::MAX_INSPECT_SIZE`.
const MAX_INSPECT_SIZE: usize = 64 * 1024;

/// What the inspector says of `head`, the bytes that have arrived.
pub(crate) fn sniff(head: &[u8]) -> Sniff {
    let Some(&first) = head.first() else { return Sniff::Undecided };
    let compared = head.len().min(H2_PREFACE.len());
    if head.get(..compared) == H2_PREFACE.get(..compared) {
        return if compared == H2_PREFACE.len() { Sniff::Protocol("h2c") } else { Sniff::Undecided };
    }
    if first == b'\r' || first == b'\n' {
        return Sniff::NotHttp;
    }
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        // The parser judges a line when it is whole, but stops at once at a byte that no method has.
        let method = head.iter().take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
        return match method.into_iter().all(|byte| is_token(*byte)) && is_token(first) {
            false => Sniff::NotHttp,
            true if head.len() >= MAX_INSPECT_SIZE => Sniff::TooLong,
            true => Sniff::Undecided,
        };
    };
    let line = head.get(..end).unwrap_or_default();
    match RequestLine::of(line.strip_suffix(b"\r").unwrap_or(line), Methods::Any) {
        None => Sniff::NotHttp,
        Some(line) if line.is_http_11() => Sniff::Protocol("http/1.1"),
        Some(_) => Sniff::Protocol("http/1.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_tells_its_version() {
        for (head, expected) in [
            ("CONNECT a:443 HTTP/1.1\r\n", Sniff::Protocol("http/1.1")),
            ("CONNECT a:443 HTTP/1.1\n", Sniff::Protocol("http/1.1")),
            ("CONNECT a:443 HTTP/1.0\r\n", Sniff::Protocol("http/1.0")),
            ("CONNECT a:443 HTTP/2.0\r\n", Sniff::Protocol("http/1.0")),
            ("GET /\r\n", Sniff::Protocol("http/1.0")),
            ("OPTIONS * HTTP/1.1\r\n", Sniff::Protocol("http/1.1")),
            ("connect a:443 HTTP/1.1\r\n", Sniff::NotHttp),
            ("\r\nCONNECT a:443 HTTP/1.1\r\n", Sniff::NotHttp),
            ("CONNECT http://a HTTP/1.1\r\n", Sniff::Protocol("http/1.1")),
            ("get / HTTP/1.1\r\n", Sniff::Protocol("http/1.1")),
            ("GET a HTTP/1.1\r\n", Sniff::NotHttp),
            ("PUT / HTTP/1.1 x\r\n", Sniff::NotHttp),
            ("SSH-2.0-client\r\n", Sniff::NotHttp),
            ("SSH-2.0-client", Sniff::Undecided),
            ("\u{5}\u{1}\u{0}", Sniff::NotHttp),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Protocol("h2c")),
            ("PRI * HTTP/2.0\r\n\r\nSM", Sniff::Undecided),
            ("", Sniff::Undecided),
        ] {
            assert_eq!(sniff(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_line_is_undecided() {
        let line = b"CONNECT example.com:443 HTTP/1.1\r\n";
        for length in 0..line.len() {
            assert_eq!(sniff(&line[..length]), Sniff::Undecided, "{length}");
        }
    }
}
