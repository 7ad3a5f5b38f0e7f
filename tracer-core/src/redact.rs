//! Masks secrets in heads before the engine, a recording or a log sees them, by allow-lists: what is not known to be
//! harmless is masked.
//!
//! Masking keeps lengths, and depends on what a flow carried but not on how that was split, so two legs that carried the
//! same bytes still compare equal. Whether a word is a password or a host may turn out only later in its line, so the
//! redactor holds a line back until it is complete, and passes it on with the bytes that complete it.

mod flows;
mod line;
mod section;

use crate::event::{Event, EventKind, is_whole};

use self::{
    flows::{Flow, Flows},
    section::Section,
};

/// Masks the payloads of a stream of events.
#[derive(Default)]
pub struct Redactor {
    /// The flows that are in the middle of a head.
    flows: Flows,
}

impl Redactor {
    /// Masks the secrets in an event's payload. The payload loses an incomplete last line, and gains at its beginning the
    /// one that an earlier payload lost; its offset and its length say so.
    pub fn redact(&mut self, event: &mut Event) {
        match &mut event.kind {
            EventKind::Sent { offset, total, data } => {
                let known = self.flows.remove(event.flow).filter(|known| known.next == *offset);
                let next = offset.wrapping_add(*total);
                let is_whole = is_whole(*total, data);
                let Flow { mut section, held, .. } = match known {
                    Some(known) if known.section.is_in_head() || !begins_head(data) => known,
                    None if *offset != 0 && !begins_head(data) => Flow::new(Section::Next),
                    Some(_) | None => Flow::new(Section::START),
                };
                let kept_before = held.len();
                if kept_before > 0 {
                    *data = [&held[..], data].concat()[..].into();
                }
                let position = usize::try_from(*offset).unwrap_or(usize::MAX).saturating_sub(kept_before);
                let decided = section.mask(data, position, kept_before == 0, is_whole);
                let held = data[decided..].to_vec();
                data.truncate(decided);
                *offset = offset.wrapping_sub(to_u32(kept_before));
                *total = total.wrapping_add(to_u32(kept_before)).wrapping_sub(to_u32(held.len()));
                if is_whole && (section.is_unfinished() || !held.is_empty()) {
                    self.flows.insert(event.flow, event.netns, Flow { next, section, held });
                }
            }
            EventKind::Ended(_) => {
                self.flows.remove(event.flow);
            }
            EventKind::Dialed => {}
        }
    }

    /// How many bytes of lines are held back. For tests of its bound.
    pub fn held_bytes(&self) -> usize {
        self.flows.held_bytes()
    }
}

/// The length of a part of a payload, of which the kernel copies far less than 4 GiB.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Whether these bytes begin a new request or reply.
fn begins_head(data: &[u8]) -> bool {
    data.starts_with(b"CONNECT ") || data.starts_with(b"HTTP/1.")
}

#[cfg(test)]
mod tests;
