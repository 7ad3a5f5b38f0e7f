//! Classifies what an upstream socket carried against what the app had sent.

use super::leg_bytes::LegBytes;
use crate::{
    head::{self, Form, Progress, Request},
    verdict::Payload,
};

/// Classifies the first bytes of an upstream socket against the app's bytes and request. `None`: the bytes are another
/// request, such as a sidecar sends for the other traffic of its pod.
pub(super) fn classify(upstream: &LegBytes, failed: bool, app: &[u8], request: &Request) -> Option<Payload> {
    let bytes = upstream.as_slice();
    if begin_alike(bytes, app) {
        return Some(Payload::SameBytes);
    }
    if tunneled(bytes).is_some_and(|inside| inside.is_empty() || begin_alike(inside, app)) {
        return Some(Payload::OwnConnect);
    }
    match bytes {
        [] if failed => Some(Payload::DialFailed),
        [] => Some(Payload::Nothing),
        // A TLS handshake record: https://www.rfc-editor.org/rfc/rfc8446#section-5.1
        [0x16, 3, ..] => Some(Payload::Tls),
        // An origin-form request is the app's only if Envoy rewrote an absolute-form one.
        _ if is_origin_form(bytes) => (request.form == Form::Absolute
            && is_written_by_envoy(bytes)
            && host(bytes).is_some_and(|host| host == request.authority || is_masked(&request.authority)))
        .then_some(Payload::RewrittenRequest),
        _ => match head::request(bytes).head() {
            Some(sent) => {
                let is_same = sent.form == request.form && sent.authority == request.authority;
                (is_same && is_written_by_envoy(bytes)).then_some(Payload::RewrittenRequest)
            }
            None => Some(Payload::OtherBytes),
        },
    }
}

/// Whether these are the app's bytes, perhaps inside a tunnel that the sidecar asked for.
pub(super) fn is_passed_on(bytes: &[u8], app: &[u8]) -> bool {
    begin_alike(bytes, app) || tunneled(bytes).is_some_and(|inside| begin_alike(inside, app))
}

/// Whether the shorter one is a prefix of the other, and neither is empty.
fn begin_alike(one: &[u8], other: &[u8]) -> bool {
    let common = one.len().min(other.len());
    common > 0 && one[..common] == other[..common]
}

/// If Envoy's TCP proxy wrote this head to ask for a tunnel of its own (`tunneling_config`), the bytes behind it.
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/tcp_proxy/upstream.cc>
pub(super) fn tunneled(bytes: &[u8]) -> Option<&[u8]> {
    let (line, rest) = head::split_line(bytes)?;
    if !line.starts_with(b"CONNECT ") || !rest.starts_with(b"host: ") {
        return None;
    }
    match head::request(bytes) {
        Progress::Complete(_, length) if !is_written_by_envoy(&bytes[..length]) => Some(&bytes[length..]),
        Progress::Complete(..) | Progress::Begun(_) | Progress::Incomplete | Progress::Other => None,
    }
}

/// Whether this is a request to a server (`GET /path`).
pub(super) fn is_origin_form(bytes: &[u8]) -> bool {
    head::split_line(bytes).is_some_and(|(line, _)| {
        let mut words = line.split(|&byte| byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) && target.starts_with(b"/")
    })
}

/// Whether Envoy's HTTP connection manager wrote this head. It writes header names in lower case and adds its own:
/// <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/http/conn_manager_utility.cc>
pub(super) fn is_written_by_envoy(bytes: &[u8]) -> bool {
    let has = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    has(b"\nhost: ") && (has(b"\nx-request-id: ") || has(b"\nx-forwarded-proto: ") || has(b"\nx-envoy-"))
}

/// Whether the redactor could not tell this authority from a password. It may be any host.
fn is_masked(authority: &str) -> bool {
    authority.bytes().all(|byte| byte == b'*')
}

/// The `host` header of a head that Envoy wrote.
fn host(bytes: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"\nhost: ";
    let at = bytes.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (line, _) = head::split_line(&bytes[at..])?;
    std::str::from_utf8(line).ok()
}
