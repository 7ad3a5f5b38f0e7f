//! What Envoy's `http_inspector` makes of a connection's first bytes. It reads the request line alone, with the
//! strictness of the HTTP parser it uses, and says "undecided" as long as a further byte could change the answer.
//!
//! Source: envoy source/extensions/filters/listener/http_inspector/http_inspector.cc `Filter::parseHttpHeader`,
//! with http-parser's `http_parser_execute` behind it (`LegacyHttpParserImpl`).

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

/// The methods that http-parser knows (`HTTP_METHOD_MAP`); they are upper case, `connect` is none of them.
const METHODS: [&str; 34] = [
    "DELETE",
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "COPY",
    "LOCK",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "SEARCH",
    "UNLOCK",
    "BIND",
    "REBIND",
    "UNBIND",
    "ACL",
    "REPORT",
    "MKACTIVITY",
    "CHECKOUT",
    "MERGE",
    "M-SEARCH",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PATCH",
    "PURGE",
    "MKCALENDAR",
    "LINK",
    "UNLINK",
    "SOURCE",
];

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
    let line_end = head.iter().position(|byte| *byte == b'\n');
    let line = head.get(..line_end.map_or(head.len(), |end| end + 1)).unwrap_or(head);
    match RequestLine::of(line) {
        RequestLine::Bad => Sniff::NotHttp,
        RequestLine::Whole { is_http_11: true } => Sniff::Protocol("http/1.1"),
        RequestLine::Whole { is_http_11: false } => Sniff::Protocol("http/1.0"),
        RequestLine::Part if line.len() >= MAX_INSPECT_SIZE => Sniff::TooLong,
        RequestLine::Part => Sniff::Undecided,
    }
}

enum RequestLine {
    Bad,
    Part,
    Whole { is_http_11: bool },
}

/// Where http-parser is in a target (`enum state`, from `s_req_spaces_before_url` to `s_req_fragment`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Spaces,
    ServerStart,
    Scheme,
    SchemeSlash,
    SchemeSlashSlash,
    Server,
    ServerWithAt,
    Path,
    Query,
    FragmentStart,
    Fragment,
}

impl RequestLine {
    fn of(line: &[u8]) -> Self {
        let method_length = line.iter().position(|byte| *byte == b' ');
        let method = line.get(..method_length.unwrap_or(line.len())).unwrap_or(line);
        match method_length {
            // The parser fails on the first byte that no method continues with, and waits otherwise.
            None if METHODS.iter().any(|known| known.as_bytes().starts_with(method)) => return Self::Part,
            None => return Self::Bad,
            Some(_) if !METHODS.iter().any(|known| known.as_bytes() == method) => return Self::Bad,
            Some(_) => {}
        }
        let mut target = if method == b"CONNECT" { Target::ServerStart } else { Target::Spaces };
        let mut started = false;
        for (at, &byte) in line.iter().enumerate().skip(method.len()) {
            match byte {
                b' ' if !started => {}
                b' ' if target.may_end() => {
                    return Self::version(line.get(at..).unwrap_or_default());
                }
                // A line that ends with the target is HTTP/0.9; a carriage return must precede a line feed.
                b'\n' if started && target.may_end() => return Self::Whole { is_http_11: false },
                b'\r' if started && target.may_end() => {
                    return match line.get(at + 1) {
                        None => Self::Part,
                        Some(b'\n') => Self::Whole { is_http_11: false },
                        Some(_) => Self::Bad,
                    };
                }
                _ => {
                    started = true;
                    match target.after(byte) {
                        Some(next) => target = next,
                        None => return Self::Bad,
                    }
                }
            }
        }
        Self::Part
    }

    /// The part from the blanks before `HTTP/` on (`s_req_http_start` to `s_req_line_almost_done`).
    fn version(rest: &[u8]) -> Self {
        let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
        let rest = rest.get(blanks..).unwrap_or_default();
        let template = b"HTTP/#.#";
        for (index, wanted) in template.iter().enumerate() {
            match rest.get(index) {
                None => return Self::Part,
                Some(byte) if *wanted == b'#' && byte.is_ascii_digit() => {}
                Some(byte) if byte == wanted => {}
                Some(_) => return Self::Bad,
            }
        }
        let is_http_11 = rest.starts_with(b"HTTP/1.1");
        match rest.get(template.len()..).unwrap_or_default() {
            [] | [b'\r'] => Self::Part,
            [b'\n', ..] | [b'\r', b'\n', ..] => Self::Whole { is_http_11 },
            _ => Self::Bad,
        }
    }
}

impl Target {
    /// A scheme or its slashes may not be followed by a blank (`HPE_INVALID_URL`).
    fn may_end(self) -> bool {
        match self {
            Self::Server
            | Self::ServerWithAt
            | Self::Path
            | Self::Query
            | Self::FragmentStart
            | Self::Fragment => true,
            Self::Spaces | Self::ServerStart | Self::Scheme | Self::SchemeSlash | Self::SchemeSlashSlash => {
                false
            }
        }
    }

    /// `parse_url_char`.
    fn after(self, byte: u8) -> Option<Self> {
        let url = is_url_byte(byte);
        match self {
            Self::Spaces => match byte {
                b'/' | b'*' => Some(Self::Path),
                _ if byte.is_ascii_alphabetic() => Some(Self::Scheme),
                _ => None,
            },
            Self::Scheme => match byte {
                b':' => Some(Self::SchemeSlash),
                _ if byte.is_ascii_alphabetic() => Some(self),
                _ => None,
            },
            Self::SchemeSlash => (byte == b'/').then_some(Self::SchemeSlashSlash),
            Self::SchemeSlashSlash => (byte == b'/').then_some(Self::ServerStart),
            Self::ServerWithAt if byte == b'@' => None,
            Self::ServerStart | Self::Server | Self::ServerWithAt => match byte {
                b'/' => Some(Self::Path),
                b'?' => Some(Self::Query),
                b'@' => Some(Self::ServerWithAt),
                b'[' | b']' => Some(Self::Server),
                _ if is_userinfo_byte(byte) => Some(Self::Server),
                _ => None,
            },
            Self::Path => match byte {
                b'?' => Some(Self::Query),
                b'#' => Some(Self::FragmentStart),
                _ => url.then_some(self),
            },
            Self::Query => match byte {
                b'?' => Some(self),
                b'#' => Some(Self::FragmentStart),
                _ => url.then_some(self),
            },
            Self::FragmentStart => match byte {
                b'#' => Some(self),
                _ => (url || byte == b'?').then_some(Self::Fragment),
            },
            Self::Fragment => (url || byte == b'?' || byte == b'#').then_some(self),
        }
    }
}

/// `IS_URL_CHAR` in strict mode: printable ASCII but `#` and `?`.
fn is_url_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#' && byte != b'?'
}

/// `IS_USERINFO_CHAR`.
fn is_userinfo_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_'
                | b'.'
                | b'!'
                | b'~'
                | b'*'
                | b'\''
                | b'('
                | b')'
                | b'%'
                | b';'
                | b':'
                | b'&'
                | b'='
                | b'+'
                | b'$'
                | b','
        )
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
