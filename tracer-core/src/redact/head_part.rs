//! The parts of a head, and what is masked in each. A head may be split anywhere.

use memchr::{memchr, memchr_iter, memchr2};
use tracer_ebpf::http_prefix::{METHODS, PREFIXES};

/// Headers whose values are kept. All others are masked.
const KEPT_HEADERS: [&[u8]; 12] = [
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

/// How many bytes of another protocol are kept: enough to tell TLS from HTTP/2.
const KEPT_OF_OTHER: usize = 5;

/// The part of a head in which the next byte is.
#[derive(Clone, Debug)]
pub(super) enum HeadPart {
    /// The first line, and its bytes so far.
    FirstLine(Vec<u8>),
    /// A header's name, and its bytes so far.
    Name(Vec<u8>),
    /// A header's value.
    Value { kept: bool },
    /// Behind the empty line, with the bytes so far that may begin another head: a reply follows an interim one
    /// (`100 Continue`), a request one that was refused. It may also be a body.
    Next(Vec<u8>),
    /// A body or another protocol, and how many bytes may still be kept.
    Rest(usize),
}

/// The beginning of a flow.
pub(super) const START: HeadPart = HeadPart::FirstLine(Vec::new());
/// Behind a head.
pub(super) const NEXT: HeadPart = HeadPart::Next(Vec::new());

impl HeadPart {
    /// Whether the next byte is the first of a line that may be a first line.
    pub(super) fn is_start(&self) -> bool {
        matches!(self, Self::FirstLine(line) | Self::Next(line) if line.is_empty())
    }

    /// Whether the redaction of the next bytes depends on this part.
    pub(super) fn is_unfinished(&self) -> bool {
        match self {
            Self::Next(line) => !line.is_empty(),
            Self::Rest(kept) => *kept > 0,
            Self::FirstLine(_) | Self::Name(_) | Self::Value { .. } => true,
        }
    }

    fn is_first_line(&self) -> bool {
        matches!(self, Self::FirstLine(_) | Self::Next(_))
    }

    /// Whether the next bytes are behind a head, in a body or of another protocol.
    pub(super) fn is_beyond_head(&self) -> bool {
        matches!(self, Self::Next(line) if line.is_empty()) || matches!(self, Self::Rest(_))
    }

    /// Masks the secrets in the next bytes. `whole`: they begin with a first line whose target [`mask_target`] will mask.
    pub(super) fn mask(&mut self, mut bytes: &mut [u8], mut whole: bool) {
        while !bytes.is_empty() {
            let taken = self.take(bytes, whole);
            // `mask_target` masks only the first of several heads in one payload.
            whole &= self.is_first_line();
            bytes = &mut bytes[taken..];
        }
    }

    /// Masks the bytes that belong to this part and returns how many they are.
    fn take(&mut self, bytes: &mut [u8], whole: bool) -> usize {
        match self {
            Self::FirstLine(line) => {
                let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
                if line.is_empty() && whole && end < bytes.len() && is_http_so_far(&bytes[..end]) {
                    return self.end_line(end, bytes); // complete, the common case
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
                    // Only the rest of the target would tell a password from a host name.
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
                    // The folded rest of the previous header's value: https://www.rfc-editor.org/rfc/rfc9112#section-5.2
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
                    b':' => {
                        Self::Value { kept: KEPT_HEADERS.iter().any(|kept| kept.eq_ignore_ascii_case(name)) }
                    }
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

    /// Ends a line at `end`. If the bytes go on, a header's name follows.
    fn end_line(&mut self, end: usize, bytes: &[u8]) -> usize {
        if end == bytes.len() {
            return end;
        }
        *self = Self::Name(Vec::new());
        end + 1
    }
}

/// Whether this is the beginning of a first line. `Some(false)`: it may become one. `None`: it is none.
fn begins_line(line: &[u8]) -> Option<bool> {
    let beginnings = PREFIXES.iter().map(|prefix| &prefix[..]).chain([&b"HTTP/1."[..]]);
    beginnings
        .filter(|beginning| beginning.starts_with(line))
        .map(|beginning| line.len() == beginning.len())
        .max()
}

/// Whether a first line begins with a method or `HTTP/1.`, as far as it has come. Otherwise it is another protocol.
fn is_http_so_far(line: &[u8]) -> bool {
    if line.starts_with(b"CONNECT ") || line.starts_with(b"HTTP/1.") {
        return true; // the common case
    }
    let word = &line[..memchr(b' ', line).unwrap_or(line.len())];
    let whole = word.len() < line.len();
    METHODS
        .iter()
        .chain([&&b"PRI"[..]]) // HTTP/2's preface
        .any(|method| if whole { *method == word } else { method.starts_with(word) })
        || b"HTTP/1.".starts_with(line)
}

/// Whether a first line has neither credentials nor a path.
fn is_plain(line: &[u8]) -> bool {
    line.starts_with(b"CONNECT ") || line.starts_with(b"HTTP/")
}

/// Masks credentials, path and query in the target of a first line.
pub(super) fn mask_target(head: &mut [u8]) {
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
    if is_plain && !target.iter().any(|byte| matches!(byte, b'@' | b'/' | b'?' | b'#')) {
        return; // a host and a port, the common case
    }
    let authority = target.windows(3).position(|window| window == b"://").map_or(0, |at| at + 3);
    let path = target[authority..].iter().position(|byte| b"/?#".contains(byte));
    let path = path.map_or(target.len(), |at| authority + at);
    if is_cut && !is_plain && path == target.len() {
        // The cut part may hold the end of credentials.
        target[authority..].fill(MASK);
    } else if let Some(at) = target[authority..path].iter().rposition(|&byte| byte == b'@') {
        target[authority..authority + at].fill(MASK);
    }
    if path < target.len() {
        target[path + 1..].fill(MASK);
    }
}
