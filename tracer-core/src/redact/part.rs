//! Where in a head a byte lies, and what is masked there. A head may be split anywhere.

use memchr::{memchr, memchr_iter, memchr2};
use tracer_ebpf::http_prefix::PREFIXES;

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

/// Where in a head the next byte lies.
#[derive(Clone, Debug)]
pub(super) enum Part {
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

/// A flow's beginning.
pub(super) const START: Part = Part::FirstLine(Vec::new());
/// Behind a head, or anywhere behind one.
pub(super) const NEXT: Part = Part::Next(Vec::new());

impl Part {
    /// What comes next begins a line that nothing was seen of.
    pub(super) fn is_start(&self) -> bool {
        matches!(self, Self::FirstLine(line) | Self::Next(line) if line.is_empty())
    }

    /// Does it matter to what comes next that this was before it?
    pub(super) fn goes_on(&self) -> bool {
        match self {
            Self::Next(line) => !line.is_empty(),
            Self::Rest(kept) => *kept > 0,
            Self::FirstLine(_) | Self::Name(_) | Self::Value { .. } => true,
        }
    }

    fn is_first_line(&self) -> bool {
        matches!(self, Self::FirstLine(_) | Self::Next(_))
    }

    /// Masks what must not be seen of the bytes that come next. `whole`: they begin with a first line, whose target
    /// [`mask_target`] will see as one.
    pub(super) fn mask(&mut self, mut bytes: &mut [u8], mut whole: bool) {
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
    let beginnings = PREFIXES.iter().map(|prefix| &prefix[..]).chain([&b"HTTP/1."[..]]);
    beginnings
        .filter(|beginning| beginning.starts_with(line))
        .map(|beginning| line.len() == beginning.len())
        .max()
}

/// Methods and version: anything else in a first line's beginning is another protocol.
fn is_http_so_far(line: &[u8]) -> bool {
    if line.starts_with(b"CONNECT ") || line.starts_with(b"HTTP/1.") {
        return true; // as nearly all that is recorded
    }
    let word = &line[..memchr(b' ', line).unwrap_or(line.len())];
    let whole = word.len() < line.len();
    [&b"CONNECT"[..], b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"TRACE", b"OPTIONS", b"PRI"]
        .iter()
        .any(|method| if whole { *method == word } else { method.starts_with(word) })
        || b"HTTP/1.".starts_with(line)
}

/// First lines that hold neither credentials nor a path.
fn is_plain(line: &[u8]) -> bool {
    line.starts_with(b"CONNECT ") || line.starts_with(b"HTTP/")
}

/// In a target, credentials, path and query are nobody's business.
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
        return; // a host and a port, as nearly always
    }
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
