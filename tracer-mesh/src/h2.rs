//! The first request of an HTTP/2 connection, as far as the decision needs it: its method, authority and path. It
//! reads plain literals and the static table; a Huffman-coded value is left unknown, never guessed.
//!
//! Source: RFC 9113 section 4.1 (frames), RFC 7541 section 6 (header block) and appendix A (static table).

use super::http_inspector::H2_PREFACE;
use super::request::{Codec, Request};

const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The part of the static table that requests are made of: index, name, value.
const STATIC: [(usize, &str, &str); 8] = [
    (1, ":authority", ""),
    (2, ":method", "GET"),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (5, ":path", "/index.html"),
    (6, ":scheme", "http"),
    (7, ":scheme", "https"),
    (38, "host", ""),
];

/// Reads the first request after the preface.
pub(crate) fn read(head: &[u8]) -> Codec {
    let Some(mut rest) = head.strip_prefix(H2_PREFACE) else {
        return if H2_PREFACE.starts_with(head) { Codec::Pending } else { Codec::Close };
    };
    while let Some((header, after)) = rest.split_at_checked(9) {
        let &[a, b, c, kind, flags, ..] = header else { return Codec::Pending };
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == HEADERS {
            // A captured head is bounded: what is there of the block may already hold the pseudo headers.
            let block = after.get(..length).unwrap_or(after);
            return request(block, flags).map_or(Codec::Pending, Codec::Request);
        }
        let Some(after) = after.get(length..) else { return Codec::Pending };
        rest = after;
    }
    Codec::Pending
}

fn request(mut block: &[u8], flags: u8) -> Option<Request> {
    if flags & PADDED != 0 {
        block = block.get(1..)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    let mut method = None;
    let mut authority = None;
    let mut path = None;
    let mut block = Block(block);
    while let Some((name, value)) = block.field() {
        match name.as_deref() {
            Some(":method") => method = value,
            Some(":authority") => authority = value,
            Some(":path") => path = value,
            Some(_) | None => {}
        }
    }
    let method = method?;
    Some(Request { method, authority, path, headers: Vec::new(), is_absolute_form: false })
}

type Text = Option<String>;

struct Block<'a>(&'a [u8]);

impl Block<'_> {
    /// The next field; either part is `None` where it is Huffman-coded or not in our part of the static table.
    fn field(&mut self) -> Option<(Text, Text)> {
        let first = *self.0.first()?;
        if first & 0x80 != 0 {
            let index = self.integer(7)?;
            let entry = STATIC.iter().find(|(known, _, _)| *known == index);
            return Some(entry.map_or((None, None), |(_, n, v)| (Some((*n).into()), Some((*v).into()))));
        }
        if first & 0xe0 == 0x20 {
            self.integer(5)?;
            return Some((None, None));
        }
        let index = self.integer(if first & 0x40 != 0 { 6 } else { 4 })?;
        let name = if index == 0 {
            self.string()?
        } else {
            STATIC.iter().find(|(known, _, _)| *known == index).map(|(_, name, _)| (*name).to_owned())
        };
        Some((name, self.string()?))
    }

    fn integer(&mut self, bits: u32) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let limit = (1_usize << bits) - 1;
        let mut value = usize::from(*first) & limit;
        if value < limit {
            return Some(value);
        }
        for shift in [0, 7, 14] {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Text> {
        let is_huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(if is_huffman { None } else { String::from_utf8(text.to_vec()).ok() })
    }
}
