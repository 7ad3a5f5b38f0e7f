//! The first line of an HTTP/1 request, split and judged as Envoy's parser does it. The inspector and the codec use
//! the same parser, with and without unregistered methods.
//!
//! Source: envoy `source/common/http/http1/balsa_parser.cc` (`isMethodValid`, `isUrlValid`, `isVersionValid`,
//! `BalsaParser::OnRequestFirstLineInput`, `isHttp11`) and quiche `balsa_frame.cc` `ParseHTTPFirstLine`.

/// A first line that is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLine<'a> {
    pub method: &'a str,
    pub target: &'a str,
    /// Empty for HTTP/0.9.
    pub version: &'a str,
}

/// Whether a method must be one of those that are registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    Registered,
    Any,
}

/// `isMethodValid` without custom methods; 1.40 knows QUERY too.
const REGISTERED: [&str; 35] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

impl<'a> RequestLine<'a> {
    /// Splits a line, given without its end; `None` where Envoy's parser stops with an error.
    pub(crate) fn of(line: &'a [u8], methods: Methods) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let (method, rest) = cut(line);
        let (target, version) = cut(rest);
        let known = match methods {
            Methods::Registered => REGISTERED.contains(&method),
            Methods::Any => !method.is_empty() && method.bytes().all(is_token),
        };
        let line = Self { method, target, version };
        (known && is_target(target, method == "CONNECT") && is_version(version)).then_some(line)
    }

    pub(crate) fn is_http_11(&self) -> bool {
        self.version == "HTTP/1.1"
    }
}

/// A character of a method or a header name (RFC 9110 section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The text up to a blank, and the text after all blanks.
fn cut(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t']))
}

/// `isVersionValid`: one digit, a dot, one digit; or nothing.
fn is_version(version: &str) -> bool {
    version.is_empty()
        || matches!(version.strip_prefix("HTTP/").map(str::as_bytes),
            Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// `isUrlValid`: a path, `*`, or for anything but a CONNECT a scheme; then a host and a path of allowed characters.
fn is_target(target: &str, is_connect: bool) -> bool {
    let is_path_byte = |byte: u8| byte.is_ascii_graphic();
    if let Some(rest) = target.strip_prefix(['/', '*']) {
        return rest.bytes().all(is_path_byte);
    }
    let mut rest = target;
    if !is_connect {
        let Some((scheme, after)) = target.split_once("://") else { return false };
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
            return false;
        }
        rest = after;
    }
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(&byte);
    !target.is_empty()
        && host.bytes().all(is_host_byte)
        && !host.contains("@@")
        && path.bytes().all(is_path_byte)
}
