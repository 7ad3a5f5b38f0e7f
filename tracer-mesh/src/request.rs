//! The request as Envoy's HTTP codec reads it from a connection's first bytes, or the answer that the codec gives
//! by itself when it cannot.
//!
//! Source: envoy `source/common/http/http1/codec_impl.cc` (`ConnectionImpl::onHeadersCompleteImpl`,
//! `ServerConnectionImpl::handlePath`, `checkProtocolVersion`, `onHeadersCompleteBase`) and
//! `source/common/http/http1/balsa_parser.cc`.

use super::connect_target::{absolute_url, connect_authority};
use super::hcm::{Hcm, Underscores};
use super::request_line::{Methods, RequestLine, is_token};

/// A request, after the codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub method: String,
    /// `None` where there is neither a Host header nor an authority in the target, or where it could not be read.
    pub authority: Option<String>,
    /// With its query; `None` for a CONNECT.
    pub path: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The target named a host (`GET http://host/`), as it does when it is meant for a proxy.
    pub is_absolute_form: bool,
}

/// What the codec makes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Request(Request),
    /// The codec answers by itself.
    Reply {
        status: u16,
        details: &'static str,
    },
    /// The connection ends without an answer (HTTP/2 errors).
    Close,
    /// The head is not whole.
    Pending,
}

impl Request {
    pub(crate) fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    /// All values of a header, joined as Envoy joins them; `None` if it is absent.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match name {
            ":authority" | "host" => return self.authority.clone(),
            ":method" => return Some(self.method.clone()),
            ":path" => return self.path.clone(),
            ":scheme" => return Some("http".to_owned()),
            _ => {}
        }
        let values: Vec<&str> =
            self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }
}

/// Reads the first HTTP/1 request in `head`.
pub(crate) fn read_http1(head: &[u8], hcm: &Hcm) -> Codec {
    // Empty lines before a request are skipped (`ConnectionImpl::dispatch`).
    let skipped = head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let head = head.get(skipped..).unwrap_or_default();
    // A line is judged when it is whole, but a byte that no method has stops the parser at once.
    let mut method = head.iter().take_while(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    if !method.all(|byte| is_token(*byte)) {
        return CODEC_ERROR;
    }
    let mut lines = Lines(head);
    let Some(line) = lines.next() else {
        let too_large = head.len() > hcm.max_headers_kb.saturating_mul(1024);
        return if too_large { HEADERS_TOO_LARGE } else { Codec::Pending };
    };
    let Some(line) = RequestLine::of(line, Methods::Registered) else { return CODEC_ERROR };
    let mut headers: Vec<(String, String)> = Vec::new();
    // Header lines are only judged when all of them are there (`BalsaFrame::ProcessHeaderLines`).
    let mut bad = None;
    // HTTP/0.9 has no headers: the request ends with its line.
    while !line.version.is_empty() {
        if head.len() - lines.0.len() > hcm.max_headers_kb.saturating_mul(1024) {
            return HEADERS_TOO_LARGE;
        }
        let Some(field) = lines.next() else { return Codec::Pending };
        if field.is_empty() {
            break;
        }
        match header(field) {
            // ConnectionImpl::completeCurrentHeader, `shouldDropHeaderWithUnderscoresInNames`.
            Field::Header(name, _) if name.contains('_') && hcm.underscores == Underscores::Drop => {}
            Field::Header(name, _) if name.contains('_') && hcm.underscores == Underscores::Reject => {
                bad = bad.or(Some(reply(400, "http1.unexpected_underscore")));
            }
            Field::Header(name, value) => headers.push((name, value)),
            // A folded line belongs to the header before it.
            Field::Folded(more) => match headers.last_mut() {
                Some((_, value)) => value.push_str(&more),
                None => bad = bad.or(Some(CODEC_ERROR)),
            },
            Field::Bad => bad = bad.or(Some(CODEC_ERROR)),
            Field::BadBytes => bad = bad.or(Some(reply(400, "http1.invalid_characters"))),
        }
    }
    if let Some(bad) = bad {
        return bad;
    }
    if headers.len() > hcm.max_headers {
        return reply(431, "http1.too_many_headers");
    }
    checked(&line, headers, hcm)
}

/// The checks of a whole head, in Envoy's order.
fn checked(line: &RequestLine<'_>, mut headers: Vec<(String, String)>, hcm: &Hcm) -> Codec {
    let is_connect = line.method == "CONNECT";
    // For each of these Envoy has one slot, and appends a second header to the first: `HeaderMapImpl::addViaMove`.
    let value = |name: &str| {
        let values: Vec<_> =
            headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    let content_length = value("content-length");
    let transfer_encoding = value("transfer-encoding");
    if let Some(length) = &content_length {
        // `BalsaHeaders::content_length_status`: anything but one number is a parse error.
        if headers.iter().filter(|(name, _)| name == "content-length").count() > 1 {
            return CODEC_ERROR;
        }
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return CODEC_ERROR;
        }
        if is_connect && length != "0" {
            return reply(400, "http1.body_disallowed");
        }
    }
    let is_chunked = transfer_encoding.as_deref().is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    // A CONNECT's zero length was dropped before this check.
    if transfer_encoding.is_some()
        && content_length.is_some()
        && !is_connect
        && !(is_chunked && hcm.allow_chunked_length)
    {
        return reply(400, "http1.content_length_and_chunked_not_allowed");
    }
    if transfer_encoding.is_some() && (!is_chunked || is_connect) {
        return reply(501, "http1.invalid_transfer_encoding");
    }
    let mut authority = value("host");
    let mut path = None;
    let mut is_absolute_form = false;
    if is_connect {
        match connect_authority(line.target) {
            Some(target) => authority = Some(target.to_owned()),
            None => return reply(400, "http1.invalid_url"),
        }
    } else if line.target.starts_with('/')
        || (line.method == "OPTIONS" && line.target.starts_with('*'))
        || !hcm.allow_absolute_url
    {
        path = Some(line.target.to_owned());
    } else {
        match absolute_url(line.target) {
            Some(url) if !matches!(url.scheme.as_str(), "http" | "https") => {
                return reply(400, "http1.invalid_scheme");
            }
            Some(url) => {
                authority = Some(url.host_and_port.to_owned());
                path = Some(url.path_and_query);
                is_absolute_form = true;
            }
            None => return reply(400, "http1.invalid_url"),
        }
    }
    if !line.is_http_11() {
        if !hcm.accept_http_10 {
            return reply(426, "low_version");
        }
        if authority.is_none() {
            authority.clone_from(&hcm.default_host_for_http_10);
        }
    }
    headers.retain(|(name, _)| name != "host");
    Codec::Request(Request { method: line.method.to_owned(), authority, path, headers, is_absolute_form })
}

const CODEC_ERROR: Codec = Codec::Reply { status: 400, details: "http1.codec_error" };
const HEADERS_TOO_LARGE: Codec = Codec::Reply { status: 431, details: "http1.headers_too_large" };

fn reply(status: u16, details: &'static str) -> Codec {
    Codec::Reply { status, details }
}

/// Takes whole lines from the front, without their line end.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (self.0.get(..end)?, self.0.get(end + 1..)?);
        self.0 = rest;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

enum Field {
    Header(String, String),
    Folded(String),
    Bad,
    BadBytes,
}

fn header(field: &[u8]) -> Field {
    let field = String::from_utf8_lossy(field);
    if field.starts_with([' ', '\t']) {
        return Field::Folded(field.into_owned());
    }
    let Some((name, value)) = field.split_once(':') else { return Field::Bad };
    if name.is_empty() || !name.bytes().all(is_token) {
        return Field::Bad;
    }
    let value = value.trim_matches([' ', '\t']);
    if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
        return Field::BadBytes;
    }
    Field::Header(name.to_ascii_lowercase(), value.to_owned())
}
