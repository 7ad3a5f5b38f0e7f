//! What is kept of one line of a head. Everything else is masked, but for spaces.

use std::net::Ipv6Addr;

use memchr::{memchr, memmem, memrchr};

pub(super) const MASK: u8 = b'*';

/// Values of headers about the connection. Others, which may be names of headers that the client made up, are masked.
const CONNECTION_WORDS: [&[u8]; 6] =
    [b"close", b"keep-alive", b"chunked", b"upgrade", b"identity", b"100-continue"];

/// The longest name of a header that is kept.
const MAX_NAME: usize = 48;

/// Masks all but spaces and carriage returns.
pub(super) fn mask_words(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| !matches!(byte, b' ' | b'\r')).for_each(|byte| *byte = MASK);
}

/// Masks a first line without its line feed. Of a request the method, the cleaned target and the version are kept, of a
/// reply the version and the status. `is_cut`: the line goes on.
pub(super) fn mask_first_line(line: &mut [u8], is_cut: bool) {
    let line = without_return(line);
    if line.starts_with(b"HTTP/1.") {
        let is_status = matches!(line, [.., b' ', b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] if line.len() == 12)
            || matches!(line.get(8..13), Some([b' ', b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ']));
        let kept = if is_status && line[7].is_ascii_digit() { 12 } else { b"HTTP/1.".len() };
        return mask_words(&mut line[kept..]);
    }
    if line == b"PRI * HTTP/2.0" {
        return;
    }
    let is_connect = line.starts_with(b"CONNECT");
    let mut rest = line;
    let mut nth = 0;
    while let Some(start) = rest.iter().position(|byte| *byte != b' ') {
        let behind = &mut rest[start..];
        let end = memchr(b' ', behind).unwrap_or(behind.len());
        let is_last = end == behind.len();
        let (word, behind) = behind.split_at_mut(end);
        match nth {
            0 => {} // a method
            1 if is_connect && is_cut && is_last => mask_words(word),
            1 if is_connect => mask_authority(word),
            1 => mask_target(word, is_cut && is_last),
            2 if matches!(word, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {}
            _ => mask_words(word),
        }
        nth += 1;
        rest = behind;
    }
}

/// Masks the target of a request other than CONNECT: of an absolute URL its scheme and its host with the port are kept, of
/// others a leading `/`.
fn mask_target(target: &mut [u8], is_cut: bool) {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else {
        let kept = usize::from(matches!(target, [b'/', ..] | [b'*']));
        return mask_words(&mut target[kept..]);
    };
    let rest = &mut target[scheme.len()..];
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_mut(end);
    // A password may contain a `/` or `#`: what looks like the host may be a user and the beginning of a password.
    let has_at = memchr(b'@', path).is_some() || memmem::find(path, b"%40").is_some();
    let is_host = memchr(b'.', authority).is_some() && (!has_at || memchr(b':', authority).is_none());
    if memchr(b'@', authority).is_some() && has_at || (is_cut || has_at) && !is_host {
        mask_words(authority);
    } else {
        mask_authority(authority);
    }
    if let [_, behind @ ..] = path {
        mask_words(behind);
    }
}

/// Masks a host and port with credentials before it: all before the last `@`, and what is behind it unless that is a host
/// and a port.
fn mask_authority(authority: &mut [u8]) {
    if !authority.iter().all(u8::is_ascii_graphic) {
        return mask_words(authority); // several words, which some parsers would tell apart
    }
    let host = memrchr(b'@', authority).map_or(0, |at| at + 1);
    let (user, host) = authority.split_at_mut(host);
    if let [user @ .., _] = user {
        mask_words(user);
    }
    if !is_host_and_port(host) {
        mask_words(host);
    }
}

fn is_host_and_port(text: &[u8]) -> bool {
    let is_port = |port: &[u8]| port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let is_name = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    let is_ipv6 = |ip: &[u8]| std::str::from_utf8(ip).is_ok_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    if let [b'[', rest @ ..] = text {
        let Some(end) = memchr(b']', rest) else { return false };
        return is_ipv6(&rest[..end])
            && match &rest[end + 1..] {
                [] => true,
                [b':', port @ ..] => is_port(port),
                _ => false,
            };
    }
    match memrchr(b':', text) {
        None => is_name(text),
        Some(colon) => is_name(&text[..colon]) && is_port(&text[colon + 1..]) || is_ipv6(text),
    }
}

/// Masks a header line without its line feed: its value, unless that is of a kind that is kept, and its name, unless it
/// looks like one. A line without a colon, and a folded one, is all value.
pub(super) fn mask_header(line: &mut [u8], is_cut: bool) {
    let line = without_return(line);
    let Some(colon) = memchr(b':', line).filter(|_| !matches!(line, [b' ' | b'\t', ..])) else {
        return mask_words(line);
    };
    let (name, value) = line.split_at_mut(colon);
    let value = &mut value[1..];
    let (start, end) = (value.len() - value.trim_ascii_start().len(), value.trim_ascii_end().len());
    if end > start && !is_cut {
        mask_value(name, &mut value[start..end]);
    } else {
        mask_words(value);
    }
    if name.len() > MAX_NAME || !name.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'-') {
        mask_words(name);
    }
}

fn mask_value(name: &[u8], value: &mut [u8]) {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("host") {
        mask_authority(value);
    } else if is("user-agent") {
        let kept = product(value).filter(|(_, has_version)| *has_version);
        mask_words(&mut value[kept.map_or(0, |(length, _)| length)..]);
    } else if is("server") {
        let kept = product(value);
        mask_words(&mut value[kept.map_or(0, |(length, _)| length)..]);
    } else if is("content-length") || is("x-envoy-attempt-count") {
        if !value.iter().all(u8::is_ascii_digit) {
            mask_words(value);
        }
    } else {
        let is_known = ["connection", "proxy-connection", "transfer-encoding", "expect"].into_iter().any(is)
            && CONNECTION_WORDS.iter().any(|word| value.eq_ignore_ascii_case(word));
        if !is_known {
            mask_words(value);
        }
    }
}

/// The length of the product at the beginning of a value (`curl/8.5.0`), and whether it has a version: a name of letters
/// and dashes, and a version of digits and dots.
fn product(value: &[u8]) -> Option<(usize, bool)> {
    let word = &value[..memchr(b' ', value).unwrap_or(value.len())];
    let slash = memchr(b'/', word);
    let name = &word[..slash.unwrap_or(word.len())];
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'-');
    let version = slash.map_or(&[][..], |slash| &word[slash + 1..]);
    let is_version = version.len() <= 16 && version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    (is_name && is_version).then_some((word.len(), !version.is_empty()))
}

fn without_return(line: &mut [u8]) -> &mut [u8] {
    match line {
        [rest @ .., b'\r'] => rest,
        line => line,
    }
}
