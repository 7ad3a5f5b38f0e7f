//! Parses the heads of HTTP/1 messages as far as they have come. A head may be cut by the capture limit, so each part is
//! taken as soon as it is complete. All text is escaped. (`httparse` needs complete heads and refuses malformed ones
//! that matter here.)

use compact_str::CompactString;
use memchr::memchr;
use serde::{Deserialize, Serialize};
use tracer_ebpf::{HEAD_MAX, http_prefix::METHODS};

use crate::escape::escape_bytes;

/// A request to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// CONNECT, or another method with an absolute-form target.
    pub form: Form,
    /// The authority of the request line (`host:port`), without credentials, escaped.
    pub authority: CompactString,
    /// `1.1` of `HTTP/1.1`. Empty: the first line is longer than the captured bytes.
    pub http_version: CompactString,
    /// `User-Agent`, escaped.
    pub user_agent: Option<CompactString>,
}

/// The two forms of a request to a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `CONNECT host:port HTTP/1.1`
    #[default]
    Connect,
    /// `GET http://host/ HTTP/1.1`
    Absolute,
}

/// The final answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Its status. `None`: the answer is not HTTP/1.
    pub status: Option<u16>,
    /// `Server`, escaped.
    pub server: Option<CompactString>,
    /// Whether a body follows.
    pub body: Body,
    /// It has a sign of a forward proxy, which no Envoy writes of its own: status 407, or a header such as `Via`.
    pub by_proxy: bool,
}

/// Headers that forward proxies write into their own answers. Envoy writes `Via` only where a configuration asks for it,
/// which istiod never does.
const PROXY_HEADERS: [&[u8]; 4] = [b"proxy-authenticate", b"via", b"x-squid-error", b"proxy-agent"];

/// Whether a reply has a body, according to its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// `Content-Length: 0`.
    Empty,
    /// `Content-Length` above 0, or `Transfer-Encoding`.
    Present,
    /// The head does not say.
    Unknown,
}

/// How far a head has been parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// The bytes are not such a head, whatever follows.
    Other,
    /// The first line is not complete.
    Incomplete,
    /// The first line is complete, the headers are not.
    Begun(T),
    /// The head is complete and this many bytes long.
    Complete(T, usize),
}

impl<T> Progress<T> {
    /// The head, as far as it has come.
    pub fn head(self) -> Option<T> {
        match self {
            Self::Other | Self::Incomplete => None,
            Self::Begun(head) | Self::Complete(head, _) => Some(head),
        }
    }
}

/// Parses a request to a proxy. An origin-form request is [`Progress::Other`].
pub fn request(bytes: &[u8]) -> Progress<Request> {
    let Some((line, rest)) = split_line(bytes) else {
        return match bytes {
            [] => Progress::Incomplete,
            _ if !could_become_request(bytes) => Progress::Other,
            _ if bytes.len() < HEAD_MAX => Progress::Incomplete,
            _ => request_with_cut_line(bytes),
        };
    };
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Progress::Other;
    };
    let Some(version) = version.strip_prefix(b"HTTP/") else { return Progress::Other };
    if !METHODS.contains(&method) || !matches!(version, [b'0'..=b'9', b'.', b'0'..=b'9']) {
        return Progress::Other;
    }
    let Some((form, authority)) = form_of(method, target) else { return Progress::Other };
    let mut request = Request {
        form,
        authority: escape_bytes(without_credentials(authority)),
        http_version: escape_bytes(version),
        user_agent: None,
    };
    let length = headers(bytes, rest, |name, value| {
        if name.eq_ignore_ascii_case(b"user-agent") {
            request.user_agent = Some(escape_bytes(value));
        }
    });
    match length {
        Some(length) => Progress::Complete(request, length),
        None => Progress::Begun(request),
    }
}

/// Parses a first line that is longer than the captured bytes, mostly because of a long URL.
fn request_with_cut_line(bytes: &[u8]) -> Progress<Request> {
    let mut words = bytes.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Progress::Other };
    let Some((form, authority)) = form_of(method, target) else { return Progress::Other };
    let mut authority_text: CompactString = escape_bytes(without_credentials(authority));
    if authority.as_ptr_range().end == bytes.as_ptr_range().end {
        authority_text.push_str("...");
    }
    Progress::Begun(Request {
        form,
        authority: authority_text,
        http_version: CompactString::default(),
        user_agent: None,
    })
}

/// The form of a request, and its authority.
fn form_of<'a>(method: &[u8], target: &'a [u8]) -> Option<(Form, &'a [u8])> {
    if method == b"CONNECT" {
        return Some((Form::Connect, target));
    }
    let rest = strip_scheme(target)?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    Some((Form::Absolute, &rest[..end]))
}

/// Parses the final reply, skipping interim ones (`100 Continue`).
pub fn reply(mut bytes: &[u8]) -> Progress<ReplyHead> {
    let mut skipped = 0;
    loop {
        let begins = bytes.len().min(b"HTTP/1.".len());
        if bytes[..begins] != b"HTTP/1."[..begins] {
            let other = ReplyHead { status: None, server: None, body: Body::Unknown, by_proxy: false };
            // An answer in another protocol is an answer too.
            return if bytes.is_empty() {
                Progress::Incomplete
            } else {
                Progress::Complete(other, bytes.len())
            };
        }
        let Some((line, rest)) = split_line(bytes) else { return Progress::Incomplete };
        let status = line
            .split(|&byte| byte == b' ')
            .nth(1)
            .filter(|code| code.len() == 3)
            .and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
        let mut reply =
            ReplyHead { status, server: None, body: Body::Unknown, by_proxy: status == Some(407) };
        let length = headers(bytes, rest, |name, value| {
            if name.eq_ignore_ascii_case(b"server") {
                reply.server = Some(escape_bytes(value));
            } else if name.eq_ignore_ascii_case(b"content-length") {
                reply.body = if value == b"0" { Body::Empty } else { Body::Present };
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                reply.body = Body::Present;
            } else if PROXY_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header)) {
                reply.by_proxy = true;
            }
        });
        let interim = status.is_some_and(|status| (100..200).contains(&status));
        match length {
            Some(length) if interim => {
                bytes = &bytes[length..];
                skipped += length;
            }
            None if interim => return Progress::Incomplete,
            Some(length) => return Progress::Complete(reply, skipped + length),
            None => return Progress::Begun(reply),
        }
    }
}

/// Calls `each` with every complete header in `rest`, the part of `all` behind the first line. Returns the length of
/// the head if its empty line has come.
fn headers(all: &[u8], mut rest: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<usize> {
    loop {
        let (line, behind) = split_line(rest)?;
        if line.is_empty() {
            return Some(all.len() - behind.len());
        }
        if let Some(colon) = memchr(b':', line) {
            each(&line[..colon], line[colon + 1..].trim_ascii());
        }
        rest = behind;
    }
}

/// The first line without its end (CRLF or LF), and the rest. `None`: the line is not complete.
pub fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

fn could_become_request(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| {
        let with_space = method.len() + 1;
        if bytes.len() < with_space {
            method.starts_with(bytes.strip_suffix(b" ").unwrap_or(bytes))
        } else {
            bytes.starts_with(method) && bytes[method.len()] == b' '
        }
    })
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    let at = target.windows(3).position(|window| window == b"://")?;
    let scheme = &target[..at];
    (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")).then(|| &target[at + 3..])
}

fn without_credentials(authority: &[u8]) -> &[u8] {
    authority.iter().rposition(|&byte| byte == b'@').map_or(authority, |at| &authority[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURL: &[u8] = b"CONNECT en.wikipedia.org:443 HTTP/1.1\r\nHost: en.wikipedia.org:443\r\n\
        Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\nUser-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n";
    const ENVOY_404: &[u8] =
        b"HTTP/1.1 404 Not Found\r\ndate: Fri, 20 Nov 2026 11:57:32 GMT\r\nserver: envoy\r\n\
        connection: close\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn every_prefix_of_a_request_is_parsed_as_far_as_it_goes() {
        let line = CURL.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for end in 0..=CURL.len() {
            match request(&CURL[..end]) {
                Progress::Incomplete => assert!(end < line, "{end}"),
                Progress::Begun(head) => {
                    assert!((line..CURL.len()).contains(&end), "{end}");
                    assert_eq!(head.authority, "en.wikipedia.org:443");
                }
                Progress::Complete(head, length) => {
                    assert_eq!((end, length), (CURL.len(), CURL.len()));
                    assert_eq!(head.user_agent.as_deref(), Some("curl/7.88.1"));
                    assert_eq!((head.form, head.http_version.as_str()), (Form::Connect, "1.1"));
                }
                Progress::Other => panic!("{end}"),
            }
        }
    }

    #[test]
    fn every_prefix_of_a_reply_is_parsed_as_far_as_it_goes() {
        let line = ENVOY_404.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for end in 0..=ENVOY_404.len() {
            match reply(&ENVOY_404[..end]) {
                Progress::Incomplete => assert!(end < line, "{end}"),
                Progress::Begun(head) => {
                    assert!((line..ENVOY_404.len()).contains(&end), "{end}");
                    assert_eq!(head.status, Some(404));
                }
                Progress::Complete(head, length) => {
                    assert_eq!((end, length), (ENVOY_404.len(), ENVOY_404.len()));
                    assert_eq!((head.body, head.server.as_deref()), (Body::Empty, Some("envoy")));
                }
                Progress::Other => panic!("{end}"),
            }
        }
    }

    #[test]
    fn interim_replies_are_skipped() {
        let both = [b"HTTP/1.1 100 Continue\r\n\r\n", ENVOY_404].concat();
        assert_eq!(reply(&both[..25]), Progress::Incomplete);
        assert_eq!(reply(&both).head().unwrap().status, Some(404));
    }

    #[test]
    fn credentials_and_paths_are_dropped() {
        let head =
            request(b"GET http://user:secret@host.example/path?token=x HTTP/1.1\r\n\r\n").head().unwrap();
        assert_eq!((head.form, head.authority.as_str()), (Form::Absolute, "host.example"));
        assert!(!format!("{:?}", request(CURL)).contains("dXNlcjpzZWNyZXQ="));
    }

    #[test]
    fn first_line_beyond_the_capture_limit_is_parsed_as_far_as_it_goes() {
        let long = "x".repeat(HEAD_MAX);
        for (request_line, form, authority) in [
            (
                format!("GET http://u:p@host.example/{long} HTTP/1.1\r\n"),
                Form::Absolute,
                "host.example".to_owned(),
            ),
            (format!("CONNECT {long}:443 HTTP/1.1\r\n"), Form::Connect, format!("{}...", &long[8..])),
        ] {
            let bytes = &request_line.as_bytes()[..HEAD_MAX];
            for end in 0..HEAD_MAX {
                assert_eq!(request(&bytes[..end]), Progress::Incomplete, "{end}");
            }
            let Progress::Begun(head) = request(bytes) else { panic!("no head") };
            assert_eq!((head.form, head.http_version), (form, CompactString::default()));
            assert_eq!(head.authority, authority);
        }
        let origin = format!("OPTIONS /{long}");
        assert_eq!(request(&origin.as_bytes()[..HEAD_MAX]), Progress::Other);
    }

    #[test]
    fn line_feed_alone_ends_a_line() {
        let head = request(b"CONNECT a:1 HTTP/1.1\nUser-Agent: x\n\n");
        assert!(matches!(head, Progress::Complete(Request { user_agent: Some(_), .. }, 36)));
    }

    #[test]
    fn other_messages_are_not_requests_to_a_proxy() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"OPTIONS * HTTP/1.1\r\n",
            b"connect a:1 HTTP/1.1\r\n",
            b"CONNECT a:1\r\n",
            b"CONNECT a:1 FTP/1.1\r\n",
            b"CONNECT a b:1 HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\n",
            b"\n",
            b"CONNECTX",
        ] {
            assert_eq!(request(other), Progress::Other, "{other:?}");
        }
    }

    #[test]
    fn text_from_the_wire_is_escaped() {
        let head = request(b"CONNECT a\x1b[31m\x00\xff:443 HTTP/1.1\r\n").head().unwrap();
        assert_eq!(head.authority, "a\\x1b[31m\\x00\\xff:443");
    }

    #[test]
    fn answer_in_another_protocol_has_no_status() {
        assert_eq!(reply(b"\x15\x03\x03\x00\x02\x02\x28").head().unwrap().status, None);
        assert_eq!(reply(b""), Progress::Incomplete);
    }
}
