//! Takes secrets out of heads before anything else sees them: the pure core, a recording, a log. What is masked
//! keeps its length, so that two legs which carried the same bytes still compare equal.

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;
use memchr::{memchr, memchr_iter, memchr2};

use tracer_ebpf::opening::OPENINGS;

use crate::event::{Event, What};

/// Headers whose values may be kept. All others are masked, whatever they are.
const KEPT: [&[u8]; 12] = [
    b"host",
    b"user-agent",
    b"connection",
    b"proxy-connection",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"server",
    b"via",
    b"content-type",
    b"x-squid-error",
    b"x-envoy-attempt-count",
];
const MASK: u8 = b'*';

/// Of a payload that is not HTTP, so many bytes are kept: enough to tell TLS from HTTP/2.
const KEPT_OF_OTHER: usize = 5;

/// How many flows may be in the midst of a head at once; more than that, and the oldest are masked whole.
const FLOWS: usize = 16_384;

/// Masks the payloads of a stream of events. A head may be split anywhere, so it remembers where each flow stands.
#[derive(Default)]
pub struct Redactor {
    flows: HashMap<u64, Flow>,
}

struct Flow {
    next: u32,
    part: Part,
}

/// Where in a head the next byte lies.
#[derive(Clone, Debug)]
enum Part {
    /// The first line, of which this much was seen.
    FirstLine(Vec<u8>),
    /// A header's name, as far as it was seen.
    Name(Vec<u8>),
    /// A header's value.
    Value { kept: bool },
    /// Behind the empty line: as much of another head's beginning as was seen. A reply follows an interim one
    /// (`100 Continue`), a request one that was refused; but it may be a body.
    Next(Vec<u8>),
    /// A body, or not HTTP at all: so many bytes may still be kept.
    Rest(usize),
}

impl Redactor {
    /// Masks what must not be seen in an event's payload.
    pub fn redact(&mut self, event: &mut Event) {
        match &mut event.what {
            What::Sent { offset, total, data } => {
                let flow =
                    self.flows.entry(event.flow).or_insert_with(|| Flow { next: *offset, part: START });
                if flow.next != *offset || begins_head(data) {
                    flow.part = START;
                } else if matches!(flow.part, Part::Rest(0)) {
                    flow.part = NEXT;
                }
                let mut bytes = std::mem::take(data).try_into_mut().unwrap_or_else(BytesMut::from);
                let begins = flow.part.is_start();
                flow.part.mask(&mut bytes, begins);
                if begins {
                    mask_target(&mut bytes);
                }
                *data = bytes.freeze();
                flow.next = offset.wrapping_add(*total);
                if self.flows.len() > FLOWS {
                    self.flows.clear();
                }
            }
            What::Ended(_) => {
                self.flows.remove(&event.flow);
            }
            What::Dialed => {}
        }
    }
}

const START: Part = Part::FirstLine(Vec::new());
const NEXT: Part = Part::Next(Vec::new());

/// A new request or reply on a connection that had one before.
fn begins_head(data: &Bytes) -> bool {
    data.starts_with(b"CONNECT ") || data.starts_with(b"HTTP/1.")
}

impl Part {
    fn is_start(&self) -> bool {
        matches!(self, Self::FirstLine(line) | Self::Next(line) if line.is_empty())
    }

    fn is_first_line(&self) -> bool {
        matches!(self, Self::FirstLine(_) | Self::Next(_))
    }

    /// Masks what must not be seen of the bytes that come next. `whole`: they begin with a first line, whose target
    /// [`mask_target`] will see as one.
    fn mask(&mut self, mut bytes: &mut [u8], mut whole: bool) {
        while !bytes.is_empty() {
            let taken = self.take(bytes, whole);
            // Of several heads in one payload, `mask_target` sees the first alone.
            whole &= self.is_first_line();
            bytes = &mut bytes[taken..];
        }
    }

    /// Goes through this part, as far as these bytes go; gives how many of them belong to it.
    fn take(&mut self, bytes: &mut [u8], whole: bool) -> usize {
        match self {
            Self::FirstLine(line) => {
                let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
                if line.is_empty() && whole && end < bytes.len() && is_http_so_far(&bytes[..end]) {
                    return self.end_line(end, bytes); // whole at once, as nearly all are
                }
                let (piece, before) = (&mut bytes[..end], line.len());
                let mut spaces = memchr_iter(b' ', line).count();
                line.extend_from_slice(piece);
                if !is_http_so_far(line) {
                    let http = (before..line.len()).find(|&end| !is_http_so_far(&line[..=end]));
                    let http = http.unwrap_or(before);
                    *self = Self::Rest(KEPT_OF_OTHER.saturating_sub(http));
                    return http - before;
                }
                if !whole && !is_plain(line) {
                    // Whether this is a password or a host's name, the rest of the target would tell.
                    for byte in piece {
                        match byte {
                            b' ' => spaces += 1,
                            _ if spaces == 1 => *byte = MASK,
                            _ => {}
                        }
                    }
                }
                self.end_line(end, bytes)
            }
            Self::Name(name) => {
                if name.is_empty() && matches!(bytes[0], b' ' | b'\t') {
                    // The folded rest of the value above: https://www.rfc-editor.org/rfc/rfc9112#section-5.2
                    *self = Self::Value { kept: false };
                    return 1;
                }
                let end = memchr2(b'\n', b':', bytes).unwrap_or(bytes.len());
                let Some(&behind) = bytes.get(end) else {
                    name.extend_from_slice(bytes);
                    return end;
                };
                let name = if name.is_empty() {
                    &bytes[..end]
                } else {
                    name.extend_from_slice(&bytes[..end]);
                    name
                };
                *self = match behind {
                    b':' => Self::Value { kept: KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(name)) },
                    _ if matches!(name, [] | [b'\r']) => NEXT,
                    _ => Self::Name(Vec::new()),
                };
                end + 1
            }
            Self::Value { kept } => {
                let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
                if !*kept {
                    let is_structure = |byte: &u8| *byte == b'\r' || *byte == b' ';
                    bytes[..end].iter_mut().filter(|byte| !is_structure(byte)).for_each(|byte| *byte = MASK);
                }
                self.end_line(end, bytes)
            }
            Self::Next(line) => {
                line.push(bytes[0]);
                match begins_line(line) {
                    Some(true) => *self = Self::FirstLine(std::mem::take(line)),
                    Some(false) => {}
                    None => {
                        *self = Self::Rest(0);
                        bytes[0] = MASK;
                    }
                }
                1
            }
            Self::Rest(kept) => {
                let seen = bytes.len().min(*kept);
                bytes[seen..].fill(MASK);
                *kept -= seen;
                bytes.len()
            }
        }
    }

    /// A line goes to `end`; if that is not the end of the bytes, a header comes next.
    fn end_line(&mut self, end: usize, bytes: &[u8]) -> usize {
        if end == bytes.len() {
            return end;
        }
        *self = Self::Name(Vec::new());
        end + 1
    }
}

/// Is this the beginning of a first line that concerns us? `Some(false)`: it may become one.
fn begins_line(line: &[u8]) -> Option<bool> {
    let beginnings = OPENINGS.iter().map(|opening| &opening[..]).chain([&b"HTTP/1."[..]]);
    beginnings
        .filter(|beginning| beginning.starts_with(line))
        .map(|beginning| line.len() == beginning.len())
        .max()
}

/// Methods and version: anything else in a first line's beginning is another protocol.
fn is_http_so_far(line: &[u8]) -> bool {
    let word = &line[..memchr(b' ', line).unwrap_or(line.len())];
    let whole = word.len() < line.len();
    [&b"CONNECT"[..], b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"TRACE", b"OPTIONS", b"PRI"]
        .iter()
        .any(|method| if whole { *method == word } else { method.starts_with(word) })
        || (line.len() <= 7 && b"HTTP/1.".starts_with(line))
        || line.starts_with(b"HTTP/1.")
}

/// First lines that hold neither credentials nor a path.
fn is_plain(line: &[u8]) -> bool {
    line.starts_with(b"CONNECT ") || line.starts_with(b"HTTP/")
}

/// In a target, credentials, path and query are nobody's business.
fn mask_target(head: &mut [u8]) {
    if head.starts_with(b"HTTP/") {
        return;
    }
    let line = memchr(b'\n', head).unwrap_or(head.len());
    let is_cut = line == head.len();
    let Some(start) = head[..line].iter().position(|&byte| byte == b' ').map(|at| at + 1) else {
        return;
    };
    let end = head[start..line].iter().position(|&byte| byte == b' ').map_or(line, |at| start + at);
    let is_plain = is_plain(head);
    let target = &mut head[start..end];
    let authority = target.windows(3).position(|window| window == b"://").map_or(0, |at| at + 3);
    let path = target[authority..].iter().position(|byte| b"/?#".contains(byte));
    let path = path.map_or(target.len(), |at| authority + at);
    if is_cut && !is_plain && path == target.len() {
        // What is cut may be credentials, and their end not be here.
        target[authority..].fill(MASK);
    } else if let Some(at) = target[authority..path].iter().rposition(|&byte| byte == b'@') {
        target[authority..authority + at].fill(MASK);
    }
    if path < target.len() {
        target[path + 1..].fill(MASK);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::event::Role;

    /// What is seen of `payload` when it is sent in pieces of `size` bytes.
    fn seen(payload: &[u8], size: usize) -> String {
        let mut redactor = Redactor::default();
        let mut out = Vec::new();
        for (n, piece) in payload.chunks(size).enumerate() {
            let addr = SocketAddr::from(([127, 0, 0, 1], 1));
            let mut event = Event {
                time: 0,
                flow: 1,
                role: Role::App,
                opened: None,
                netns: 0,
                sidecar: None,
                task: None,
                link: None,
                cgroup: 0,
                uid: 0,
                lost: 0,
                local: addr,
                remote: addr,
                answered: false,
                what: What::Sent {
                    offset: u32::try_from(n * size).unwrap(),
                    total: u32::try_from(piece.len()).unwrap(),
                    data: Bytes::copy_from_slice(piece),
                },
            };
            redactor.redact(&mut event);
            let What::Sent { data, .. } = event.what else { unreachable!() };
            assert_eq!(data.len(), piece.len());
            out.extend_from_slice(&data);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked_however_the_head_is_split() {
        let head =
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\
            Cookie: c00kie\r\nX-Anything: t0ken\r\nUser-Agent: curl/7\r\n\r\nGET /private HTTP/1.1\r\n";
        for size in 1..=head.len() {
            let seen = seen(head, size);
            for secret in ["Basic", "dXNlc", "c00kie", "t0ken", "private"] {
                assert!(!seen.contains(secret), "{size}: {seen}");
            }
            assert!(seen.starts_with("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n"), "{size}: {seen}");
            assert!(seen.contains("User-Agent: curl/7\r\n\r\n"), "{size}: {seen}");
        }
    }

    #[test]
    fn targets_lose_credentials_and_path() {
        let seen = seen(b"GET http://u:p@host/a/b?c HTTP/1.1\r\n\r\n", 200);
        assert_eq!(seen, "GET http://***@host/***** HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_split_target_is_masked_whole() {
        let head = b"GET http://us3r:passw0rd@host/pr1vate HTTP/1.1\r\nHost: host\r\n\r\n";
        for size in 1..head.len() {
            let seen = seen(head, size);
            for secret in ["us3r", "passw0rd", "s3r", "w0rd", "pr1v", "1vate"] {
                assert!(!seen.contains(secret), "{size}: {seen}");
            }
            assert!(seen.ends_with(" HTTP/1.1\r\nHost: host\r\n\r\n"), "{size}: {seen}");
        }
    }

    #[test]
    fn what_follows_an_interim_reply_or_a_request_is_a_head_again() {
        let replies =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nserver: envoy\r\nx: t0ken\r\n\r\n";
        let requests = b"CONNECT a:1 HTTP/1.1\r\n\r\nCONNECT b:1 HTTP/1.1\r\nCookie: t0ken\r\n\r\nt0ken";
        for size in 1..=replies.len() {
            assert!(
                seen(replies, size).contains("HTTP/1.1 404 Not Found\r\nserver: envoy\r\nx: *"),
                "{size}"
            );
            let requests = seen(requests, size);
            assert!(requests.contains("\r\n\r\nCONNECT b:1 HTTP/1.1\r\n"), "{size}: {requests}");
            assert!(!requests.contains("t0ken"), "{size}: {requests}");
        }
    }

    #[test]
    fn bodies_and_pipelined_targets_are_masked() {
        let head = b"POST http://h/ HTTP/1.1\r\n\r\nGETsecret";
        let pipelined = b"CONNECT a:1 HTTP/1.1\r\n\r\nGET http://u:secret@h/secret?secret HTTP/1.1\r\n\r\n";
        let folded = b"CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic\r\n secret\r\n\r\n";
        let query = b"GET http://h?secret HTTP/1.1\r\n\r\n";
        let connect = b"CONNECT u:secret@h:1 HTTP/1.1\r\n\r\n";
        for whole in [&head[..], pipelined, folded, query, connect] {
            assert!(!seen(whole, 500).contains("secret"), "{}", seen(whole, 500));
        }
        for size in 1..=pipelined.len() {
            for whole in [&head[..], pipelined, folded, query] {
                assert!(!seen(whole, size).contains("secret"), "{size}: {}", seen(whole, size));
            }
        }
    }

    #[test]
    fn of_other_protocols_only_the_first_bytes_are_seen() {
        assert_eq!(seen(b"\x16\x03\x01\x02\x00\x01\x00secret", 3), "\x16\x03\x01\x02\x00********");
    }
}
