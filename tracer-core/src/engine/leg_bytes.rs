//! The first bytes that one leg of a session carried, reassembled from the kernel's records.

use bytes::{Buf as _, BytesMut};
use tracer_ebpf::HEAD_MAX;

use crate::event::is_whole;

/// Up to [`HEAD_MAX`] contiguous bytes of one direction of a flow.
#[derive(Clone, Debug, Default)]
pub(super) struct LegBytes {
    kept: BytesMut,
    /// The offset at which the next piece must begin. `None`: any.
    next: Option<u32>,
}

impl LegBytes {
    /// Whether a piece at this offset of the flow continues the bytes, and there is room for it.
    pub(super) fn accepts(&self, offset: u32) -> bool {
        self.next.is_none_or(|next| next == offset) && !self.is_full()
    }

    /// Appends a piece of `total` bytes at `offset`, of which the kernel copied `data`. A piece that does not continue
    /// the bytes is dropped.
    pub(super) fn append(&mut self, offset: u32, total: u32, mut data: BytesMut) {
        if !self.accepts(offset) {
            return;
        }
        // A piece that was copied in part is followed by a gap, so no offset continues it.
        let next = if is_whole(total, &data) { offset.wrapping_add(total) } else { offset.wrapping_sub(1) };
        self.next = Some(next);
        data.truncate(HEAD_MAX - self.kept.len());
        if self.kept.is_empty() {
            self.kept = data; // the common case: no copy
        } else {
            self.kept.extend_from_slice(&data);
        }
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.kept
    }

    /// Drops the first `length` bytes.
    pub(super) fn consume(&mut self, length: usize) {
        self.kept.advance(length.min(self.kept.len()));
    }

    /// Drops all bytes. The next piece may begin at any offset.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether [`HEAD_MAX`] bytes are kept.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= HEAD_MAX
    }

    /// Whether no byte is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_pieces_are_joined_and_a_gap_is_refused() {
        let mut bytes = LegBytes::default();
        bytes.append(7, 3, b"CON"[..].into());
        bytes.append(10, 5, b"NECT "[..].into());
        assert!(!bytes.accepts(99), "a gap");
        bytes.append(99, 1, b"x"[..].into());
        assert_eq!(bytes.as_slice(), b"CONNECT ");
    }

    #[test]
    fn no_piece_continues_one_that_was_copied_in_part() {
        let mut bytes = LegBytes::default();
        bytes.append(0, 10, b"CONN"[..].into());
        assert!(!bytes.accepts(10));
        bytes.append(10, 1, b"x"[..].into());
        assert_eq!(bytes.as_slice(), b"CONN");
    }

    #[test]
    fn at_most_head_max_bytes_are_kept() {
        let mut bytes = LegBytes::default();
        bytes.append(0, 500, [b'a'; 500][..].into());
        bytes.append(500, 500, [b'b'; 500][..].into());
        assert_eq!(bytes.as_slice().len(), HEAD_MAX);
    }
}
