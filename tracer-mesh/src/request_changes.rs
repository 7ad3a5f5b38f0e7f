//! How the connection manager changes a request before it looks for a route: early header mutations, headers that it
//! removes and adds, the host's port and dot, and the path.
//!
//! Source: envoy `source/common/http/conn_manager_utility.cc` `ConnectionManagerUtility::mutateRequestHeaders`,
//! `maybeNormalizePath`, `maybeNormalizeHost`; `source/common/http/path_utility.cc`.

use std::net::SocketAddr;

use super::hcm::{EscapedSlashes, Hcm};
use super::json::Node;
use super::request::Request;

/// Headers that only make sense for one connection, which are removed unless the request is an upgrade.
const UPGRADE_HEADERS: [&str; 2] = ["connection", "upgrade"];
const HOP_HEADERS: [&str; 4] = ["keep-alive", "proxy-connection", "transfer-encoding", "te"];

/// A path that Envoy refuses.
pub(crate) enum PathRefused {
    /// Answered with 400.
    Rejected,
    /// Answered with a redirect to the unescaped path.
    Redirected,
}

/// Changes `request` as Envoy does, and names what is not understood.
pub(crate) fn change_headers(request: &mut Request, hcm: &Hcm, is_upgrade: bool, unread: &mut Vec<String>) {
    for extension in &hcm.early_mutations {
        for mutation in Node::of(extension).field("mutations").items() {
            mutate(request, mutation, unread);
        }
    }
    let removed =
        |name: &str| HOP_HEADERS.contains(&name) || (!is_upgrade && UPGRADE_HEADERS.contains(&name));
    request.headers.retain(|(name, _)| !removed(name));
    // The sidecar's listener is plaintext. An edge (`use_remote_address`) does not believe what the client says of it.
    if hcm.sets_forwarded_proto {
        request.headers.retain(|(name, _)| name != "x-forwarded-proto");
    }
    if request.header("x-forwarded-proto").is_none() {
        request.headers.push(("x-forwarded-proto".to_owned(), "http".to_owned()));
    }
}

/// `envoy.config.common.mutation_rules.v3.HeaderMutation`.
fn mutate(request: &mut Request, mutation: Node<'_>, unread: &mut Vec<String>) {
    if let Some(name) = mutation.field("remove").text() {
        let name = name.to_ascii_lowercase();
        request.headers.retain(|(known, _)| *known != name);
        return;
    }
    let append = mutation.field("append");
    let header = append.field("header");
    let (Some(name), value) = (header.field("key").text(), header.field("value").str().unwrap_or_default())
    else {
        unread.push("an early header mutation of another kind is not evaluated here".to_owned());
        return;
    };
    let name = name.to_ascii_lowercase();
    if value.contains('%') || name.starts_with(':') || name == "host" {
        unread.push(format!("the early header mutation of {name} is not evaluated here"));
        return;
    }
    // A header with an empty value is left out (`keep_empty_value`).
    if value.is_empty() {
        return;
    }
    let exists = request.header(&name).is_some();
    match append.field("append_action").str().unwrap_or("APPEND_IF_EXISTS_OR_ADD") {
        "ADD_IF_ABSENT" if exists => return,
        "OVERWRITE_IF_EXISTS" if !exists => return,
        "OVERWRITE_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS" => {
            request.headers.retain(|(known, _)| *known != name);
        }
        _ => {}
    }
    request.headers.push((name, value.to_owned()));
}

/// Changes the request's path in place.
pub(crate) fn normalize_path(request: &mut Request, hcm: &Hcm) -> Result<(), PathRefused> {
    let Some(path) = request.path.take() else { return Ok(()) };
    let (mut path, query) = match path.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (path, None),
    };
    if hcm.escaped_slashes != EscapedSlashes::Keep {
        let unescaped = unescape_slashes(&path);
        if unescaped != path {
            match hcm.escaped_slashes {
                EscapedSlashes::Reject => return Err(PathRefused::Rejected),
                EscapedSlashes::Redirect => return Err(PathRefused::Redirected),
                EscapedSlashes::Unescape | EscapedSlashes::Keep => path = unescaped,
            }
        }
    }
    if hcm.normalizes_path && path.starts_with('/') {
        path = canonical(&path);
    }
    if hcm.merges_slashes {
        while path.contains("//") {
            path = path.replace("//", "/");
        }
    }
    request.path = Some(match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    });
    Ok(())
}

fn unescape_slashes(path: &str) -> String {
    [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

/// RFC 3986 section 6: unreserved characters are unescaped, `.` and `..` are resolved, a backslash is a slash.
fn canonical(path: &str) -> String {
    let plain = unescape_unreserved(&path.replace('\\', "/"));
    let mut segments: Vec<&str> = Vec::new();
    let parts: Vec<&str> = plain.split('/').skip(1).collect();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        match *part {
            "." if is_last => segments.push(""),
            "." => {}
            ".." => {
                segments.pop();
                if is_last {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

fn unescape_unreserved(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = byte.filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)) {
            plain.push(char::from(byte));
            rest = after.get(2..).unwrap_or_default();
        } else {
            plain.push('%');
            rest = after;
        }
    }
    plain.push_str(rest);
    plain
}

/// The host that a virtual host is looked up by, with the port and the dot that the connection manager strips.
///
/// Source: `HeaderUtility::stripPortFromHost`: a CONNECT keeps its port unless any port is stripped.
pub(crate) fn routed_host(authority: &str, hcm: &Hcm, to: SocketAddr, is_connect: bool) -> String {
    let mut host = authority.to_owned();
    if hcm.strips_trailing_dot {
        let (name, port) = split_port(&host);
        host = format!(
            "{}{}",
            name.strip_suffix('.').unwrap_or(name),
            port.map_or(String::new(), |p| format!(":{p}"))
        );
    }
    let (name, port) = split_port(&host);
    let Some(port) = port else { return host };
    let strips =
        hcm.strips_any_port || (hcm.strips_matching_port && !is_connect && port.parse() == Ok(to.port()));
    if strips { name.to_owned() } else { host }
}

/// `HeaderUtility::getPortStart`.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_and_unescaped() {
        for (path, expected) in [
            ("/x/../admin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/a/./b/", "/a/b/"),
            ("/a/..", "/"),
            ("/../a", "/a"),
            ("/a%2fb", "/a%2fb"),
            ("/a\\b", "/a/b"),
            ("/%41%zz", "/A%zz"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }

    #[test]
    fn a_port_is_split_off_a_host() {
        assert_eq!(split_port("a:443"), ("a", Some("443")));
        assert_eq!(split_port("[::1]:443"), ("[::1]", Some("443")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("a"), ("a", None));
    }
}
