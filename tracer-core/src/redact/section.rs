//! The sections of a flow in which its next byte may be, and which of them decides what is masked.

use memchr::memchr;
use tracer_ebpf::{
    HEAD_MAX,
    http_prefix::{METHODS, PREFIX_LEN, PREFIXES},
};

use super::line::{MASK, mask_first_line, mask_header, mask_words};

/// How many bytes of a TLS record's header are kept: its type, version and length.
const TLS_HEADER: usize = 5;
/// How many bytes of a later TLS record are kept: its type and version.
const TLS_TYPE_AND_VERSION: usize = 3;

/// Where the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// At the beginning of a first line.
    FirstLine,
    /// At the beginning of a header line. `head`: how many bytes of the head came before.
    Header { head: usize },
    /// In a head beyond what is kept of it, or in a line that was cut. `is_empty`: no byte of this line has come yet.
    Cut { head: usize, is_empty: bool },
    /// Behind the empty line: a reply follows an interim one (`100 Continue`), a request one that was refused. It may
    /// also be a body.
    Next,
    /// In a body.
    Body,
    /// In another protocol, behind this many of its bytes, which began like TLS.
    Other { tls: Option<usize> },
}

impl Section {
    /// The beginning of a flow.
    pub(super) const START: Self = Self::FirstLine;

    /// Whether the next byte belongs to a head for certain.
    pub(super) fn is_in_head(self) -> bool {
        matches!(self, Self::FirstLine | Self::Header { .. } | Self::Cut { .. })
    }

    /// Whether the masking of the next bytes depends on this section: without it they are taken for [`Self::Next`].
    pub(super) fn is_unfinished(self) -> bool {
        match self {
            Self::FirstLine | Self::Header { .. } | Self::Cut { .. } => true,
            Self::Other { tls } => tls.is_some_and(|seen| seen < TLS_HEADER),
            Self::Next | Self::Body => false,
        }
    }

    /// Masks the secrets in the next bytes and returns how many are decided; the others are an incomplete line.
    ///
    /// `position`: that of the first byte in the flow. `begins_piece`: the bytes begin what was sent at once. `is_whole`:
    /// the bytes behind them will follow; otherwise there is a gap, and all are decided.
    pub(super) fn mask(
        &mut self,
        bytes: &mut [u8],
        position: usize,
        begins_piece: bool,
        is_whole: bool,
    ) -> usize {
        let mut at = 0;
        if begins_piece && matches!(self, Self::Next | Self::Body) && matches!(bytes, [20..=23, 3, 0..=4, ..])
        {
            // The type and version of a TLS record are public, and tell whether a handshake went on.
            at = TLS_TYPE_AND_VERSION;
            *self = Self::Body;
        }
        while at < bytes.len() {
            match self.step(&mut bytes[at..], position.saturating_add(at), is_whole) {
                0 => break,
                taken => at += taken,
            }
        }
        at
    }

    /// Masks the next bytes up to the end of a section, and returns how many; 0: they are not decided yet.
    fn step(&mut self, bytes: &mut [u8], position: usize, is_whole: bool) -> usize {
        match *self {
            // Envoy skips empty lines before a request.
            Self::FirstLine if matches!(bytes[0], b'\r' | b'\n') => 1,
            Self::FirstLine => {
                let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
                if is_http_so_far(&bytes[..end]) {
                    self.line(bytes, 0, HEAD_MAX, is_whole, mask_first_line)
                } else {
                    *self = Self::Other { tls: Some(0) };
                    self.step(bytes, position, is_whole)
                }
            }
            Self::Header { head } => {
                // No line ends beyond the first bytes of a head, or of a flow: if it was sent at once, the kernel
                // copied no more, and the same head must be masked alike if it was sent in pieces.
                let left = [head, position].map(|from| HEAD_MAX.saturating_sub(from));
                let limit = left.into_iter().filter(|left| *left > 0).min().unwrap_or(0);
                self.line(bytes, head, limit, is_whole, mask_header)
            }
            Self::Cut { head, is_empty } => {
                let end = memchr(b'\n', bytes);
                let length = end.unwrap_or(bytes.len());
                let line = &mut bytes[..length];
                let is_empty = is_empty && line.iter().all(|byte| *byte == b'\r');
                mask_words(line);
                let head = head.saturating_add(length + 1);
                *self = match end {
                    None => Self::Cut { head, is_empty },
                    Some(_) if is_empty => Self::Next,
                    Some(_) if head < HEAD_MAX => Self::Header { head },
                    Some(_) => Self::Cut { head, is_empty: true },
                };
                length + usize::from(end.is_some())
            }
            Self::Next => match begins_line(&bytes[..bytes.len().min(PREFIX_LEN)]) {
                Some(false) if is_whole => 0,
                Some(true) => {
                    *self = Self::START;
                    self.step(bytes, position, is_whole)
                }
                Some(false) | None => {
                    *self = Self::Body;
                    self.step(bytes, position, is_whole)
                }
            },
            Self::Body => {
                bytes.fill(MASK);
                bytes.len()
            }
            Self::Other { tls } => {
                let mut tls = tls;
                for byte in &mut *bytes {
                    // https://www.rfc-editor.org/rfc/rfc8446#section-5.1
                    let is_kept = match (tls, *byte) {
                        (Some(0), 20..=23) | (Some(1), 3) | (Some(2), 0..=4) => true,
                        (Some(seen), _) => (3..TLS_HEADER).contains(&seen),
                        (None, _) => false,
                    };
                    tls = tls.filter(|_| is_kept).map(|seen| seen + 1);
                    if !is_kept {
                        *byte = MASK;
                    }
                }
                *self = Self::Other { tls };
                bytes.len()
            }
        }
    }

    /// Masks a line that ends within the next `limit` bytes, or cuts it there. `head`: how many bytes of the head came
    /// before.
    fn line(
        &mut self,
        bytes: &mut [u8],
        head: usize,
        limit: usize,
        is_whole: bool,
        mask: fn(&mut [u8], bool),
    ) -> usize {
        let window = bytes.len().min(limit);
        if let Some(end) = memchr(b'\n', &bytes[..window]) {
            let line = &mut bytes[..end];
            let is_empty = matches!(line, [] | [b'\r']);
            mask(line, false);
            *self = if is_empty { Self::Next } else { Self::Header { head: head + end + 1 } };
            return end + 1;
        }
        if is_whole && bytes.len() < limit {
            return 0;
        }
        mask(&mut bytes[..window], true);
        *self = Self::Cut { head: head + window, is_empty: window == 0 };
        if window == 0 { self.step(bytes, HEAD_MAX, is_whole) } else { window }
    }
}

/// Whether this is the beginning of a first line. `Some(false)`: it may become one. `None`: it is none.
fn begins_line(line: &[u8]) -> Option<bool> {
    let beginnings = PREFIXES.iter().map(|prefix| &prefix[..]).chain([&b"HTTP/1."[..]]);
    beginnings
        .filter(|beginning| beginning.starts_with(line) || line.starts_with(beginning))
        .map(|beginning| line.len() >= beginning.len())
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
