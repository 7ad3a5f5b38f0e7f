//! Masks secrets in heads before the engine, a recording or a log sees them. Masking keeps lengths, so two legs that
//! carried the same bytes still compare equal.

mod head_part;

use foldhash::HashMap;

use self::head_part::{HeadPart, NEXT, START, mask_target};
use crate::event::{Event, EventKind, is_whole};

/// The most flows that are remembered in the middle of a head. Beyond it all are forgotten, and their next bytes are
/// masked completely.
const MAX_FLOWS: usize = 16_384;

const TLS_TYPE_AND_VERSION: usize = 3;

/// Masks the payloads of a stream of events. A head may be split anywhere, so the redactor remembers each flow that is in
/// the middle of one.
#[derive(Default)]
pub struct Redactor {
    flows: HashMap<u64, Flow>,
}

struct Flow {
    /// The offset at which the next piece must begin.
    next: u32,
    part: HeadPart,
}

impl Redactor {
    /// Masks the secrets in an event's payload.
    pub fn redact(&mut self, event: &mut Event) {
        match &mut event.kind {
            EventKind::Sent { offset, total, data } => {
                let mut part = self.part_at(event.flow, *offset, data);
                let begins = part.is_start();
                // The type and version of a TLS record are public, and tell whether a handshake went on.
                let is_tls = part.is_beyond_head() && matches!(**data, [20..=23, 3, 0..=4, ..]);
                let masked = if is_tls { &mut data[TLS_TYPE_AND_VERSION..] } else { &mut data[..] };
                part.mask(masked, begins && !is_tls);
                if begins {
                    mask_target(data);
                }
                if part.is_unfinished() && is_whole(*total, data) {
                    if self.flows.len() >= MAX_FLOWS {
                        self.flows.clear();
                    }
                    self.flows.insert(event.flow, Flow { next: offset.wrapping_add(*total), part });
                }
            }
            EventKind::Ended(_) => {
                self.flows.remove(&event.flow);
            }
            EventKind::Dialed => {}
        }
    }

    /// The part of a head in which these bytes of a flow begin.
    fn part_at(&mut self, flow: u64, offset: u32, data: &[u8]) -> HeadPart {
        let known = self.flows.remove(&flow).filter(|known| known.next == offset);
        match known {
            _ if begins_head(data) => START,
            Some(Flow { part, .. }) => part,
            None if offset == 0 => START,
            // Behind a head or a gap, the bytes may be anything.
            None => NEXT,
        }
    }
}

/// Whether these bytes begin a new request or reply.
fn begins_head(data: &[u8]) -> bool {
    data.starts_with(b"CONNECT ") || data.starts_with(b"HTTP/1.")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::BytesMut;

    use super::*;
    use crate::event::Role;

    /// A piece of a flow's bytes after redaction.
    fn redacted(redactor: &mut Redactor, offset: usize, piece: &[u8]) -> BytesMut {
        redacted_of(redactor, offset, piece.len(), piece)
    }

    /// A piece that was sent as `total` bytes and cut, after redaction.
    fn redacted_of(redactor: &mut Redactor, offset: usize, total: usize, piece: &[u8]) -> BytesMut {
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
            shared_upstream: false,
            kind: EventKind::Sent {
                offset: u32::try_from(offset).unwrap(),
                total: u32::try_from(total).unwrap(),
                data: piece.into(),
            },
        };
        redactor.redact(&mut event);
        let EventKind::Sent { data, .. } = event.kind else { unreachable!() };
        assert_eq!(data.len(), piece.len());
        data
    }

    /// `payload` after redaction, sent in pieces of `size` bytes.
    fn seen(payload: &[u8], size: usize) -> String {
        let mut redactor = Redactor::default();
        let pieces = payload.chunks(size).enumerate();
        let seen = pieces.flat_map(|(n, piece)| redacted(&mut redactor, n * size, piece));
        String::from_utf8(seen.collect()).unwrap()
    }

    #[test]
    fn bytes_behind_a_gap_are_masked_completely() {
        let head =
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n";
        for lost in 1..head.len() {
            let mut redactor = Redactor::default();
            redacted(&mut redactor, 0, &head[..lost]);
            let rest = redacted(&mut redactor, lost + 1, &head[lost + 1..]);
            let shown = b"dXNlcjpzZWNyZXQ=".windows(2).find(|part| rest.windows(2).any(|pair| pair == *part));
            assert_eq!(shown, None, "{lost}: {rest:?}");
        }
    }

    #[test]
    fn bytes_behind_a_cut_head_begin_another_head() {
        let (head, next) =
            (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n", b"GET http://u:secret@h/ HTTP/1.1\r\n\r\n");
        for cut in 1..head.len() {
            let mut redactor = Redactor::default();
            redacted_of(&mut redactor, 0, 600, &head[..cut]);
            let seen = redacted(&mut redactor, 600, next);
            assert!(!seen.windows(6).any(|part| part == b"secret"), "{cut}: {seen:?}");
        }
    }

    #[test]
    fn no_state_is_kept_after_a_complete_head() {
        let mut redactor = Redactor::default();
        redacted(&mut redactor, 0, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
        assert!(redactor.flows.is_empty());
        redacted(&mut redactor, 0, b"CONNECT a:443 HTTP/1.1\r\nHost: a");
        assert_eq!(redactor.flows.len(), 1);
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
    fn split_target_is_masked_completely() {
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
    fn head_behind_an_interim_reply_or_a_request_is_redacted_as_a_head() {
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
    fn other_protocols_keep_only_their_first_bytes() {
        assert_eq!(seen(b"\x16\x03\x01\x02\x00\x01\x00secret", 3), "\x16\x03\x01\x02\x00********");
    }
}
