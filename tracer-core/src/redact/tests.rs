//! What the redactor lets through, and that it does so however a head is split.

use std::net::SocketAddr;

use tracer_ebpf::HEAD_MAX;

use super::*;
use crate::event::Role;

/// A piece of a flow's bytes.
fn piece(flow: u64, offset: usize, total: usize, data: &[u8]) -> Event {
    let addr = SocketAddr::from(([127, 0, 0, 1], 1));
    Event::new(
        0,
        flow,
        Role::App,
        addr,
        addr,
        EventKind::Sent {
            offset: u32::try_from(offset).unwrap(),
            total: u32::try_from(total).unwrap(),
            data: data.into(),
        },
    )
}

/// What comes out for a piece that was sent as `total` bytes and cut.
fn redacted_of(redactor: &mut Redactor, offset: usize, total: usize, data: &[u8]) -> Vec<u8> {
    let mut event = piece(1, offset, total, data);
    redactor.redact(&mut event);
    let EventKind::Sent { data, .. } = event.kind else { unreachable!() };
    data.to_vec()
}

fn redacted(redactor: &mut Redactor, offset: usize, data: &[u8]) -> Vec<u8> {
    redacted_of(redactor, offset, data.len(), data)
}

/// `payload` after redaction, sent in pieces of `size` bytes.
fn seen(payload: &[u8], size: usize) -> String {
    let mut redactor = Redactor::default();
    let pieces = payload.chunks(size).enumerate();
    let seen = pieces.flat_map(|(n, piece)| redacted(&mut redactor, n * size, piece));
    seen.map(char::from).collect()
}

/// `payload` after redaction, which must be the same however it is split.
fn seen_in_any_split(payload: &[u8]) -> String {
    let whole = seen(payload, payload.len());
    for size in 1..payload.len() {
        assert_eq!(seen(payload, size), whole, "in pieces of {size}");
    }
    whole
}

#[test]
fn only_the_host_and_the_port_of_a_target_are_kept() {
    for (target, kept) in [
        ("CONNECT a.example:443", "CONNECT a.example:443"),
        ("CONNECT [fd00::1]:443", "CONNECT [fd00::1]:443"),
        ("CONNECT fd00::1", "CONNECT fd00::1"),
        ("CONNECT u:p@host:443", "CONNECT ***@host:443"),
        ("CONNECT u:p@q@host:443", "CONNECT *****@host:443"),
        ("CONNECT user:pa/ss@host:443", "CONNECT **********@host:443"),
        ("CONNECT user:pa#ss@host:443", "CONNECT **********@host:443"),
        ("CONNECT user%3Apass%40host:443", "CONNECT **********************"),
        ("CONNECT host;token=x:443", "CONNECT ****************"),
        ("CONNECT user:secret", "CONNECT ***********"),
        ("CONNECT  u:p@host:443 ", "CONNECT  ***@host:443 "),
        ("CONNECT a\x1b[31m:443", "CONNECT **********"),
        ("GET http://u:p@host/a/b?c", "GET http://***@host/*****"),
        ("GET HTTPS://host:80?c", "GET HTTPS://host:80?*"),
        ("GET http://user:pa/ss@host/x", "GET http://*******/*********"),
        ("GET http://user:pa#ss@host/x", "GET http://*******#*********"),
        ("GET http://user:12/34%40host/x", "GET http://*******/***********"),
        ("GET http://host.example/@scope/x", "GET http://host.example/********"),
        ("GET http://u:p@ss/w@host/x", "GET http://******/********"),
        ("GET /secret", "GET /******"),
        ("OPTIONS *", "OPTIONS *"),
    ] {
        let line = format!("{target} HTTP/1.1\r\n");
        assert_eq!(seen_in_any_split(line.as_bytes()), format!("{kept} HTTP/1.1\r\n"));
    }
    assert_eq!(seen_in_any_split(b"CONNECT a:1 x HTTP/1.1\r\n"), "CONNECT a:1 * ********\r\n");
}

#[test]
fn only_harmless_parts_of_headers_are_kept() {
    for (header, kept) in [
        ("Host: a.example:443", "Host: a.example:443"),
        ("Host: u:p@a.example", "Host: ***@a.example"),
        ("User-Agent: curl/7.88.1", "User-Agent: curl/7.88.1"),
        ("User-Agent: curl/7.88.1 (key=x)", "User-Agent: curl/7.88.1 *******"),
        ("User-Agent: t0ken/1.0", "User-Agent: *********"),
        ("User-Agent: secret", "User-Agent: ******"),
        ("server: envoy", "server: envoy"),
        ("server: squid/5.7 x", "server: squid/5.7 *"),
        ("Via: 1.1 secret (squid/5.7)", "Via: *** ****** ***********"),
        ("Content-Length: 12", "Content-Length: 12"),
        ("Content-Length: x", "Content-Length: *"),
        ("Connection: keep-alive", "Connection: keep-alive"),
        ("Connection: x-secret", "Connection: ********"),
        ("Proxy-Authorization: Basic dXNlcg==", "Proxy-Authorization: ***** ********"),
        ("Host: a\rCookie: b", "Host: *\r******* *"),
        ("secret", "******"),
        (" folded: secret", " ******* ******"),
        ("t0ken: x", "*****: *"),
    ] {
        let head = format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n\r\n");
        assert_eq!(seen_in_any_split(head.as_bytes()), format!("CONNECT a:1 HTTP/1.1\r\n{kept}\r\n\r\n"));
    }
}

#[test]
fn bare_carriage_return_hides_no_header_in_a_first_line() {
    let head = b"CONNECT a:443 HTTP/1.1\rProxy-Authorization: Basic eHk=\r\n\r\n";
    let seen = seen_in_any_split(head);
    assert_eq!(
        seen,
        "CONNECT a:443 ********\r******************** ***** *****\r\n\r\n".replace("*****\r\n", "****\r\n")
    );
}

#[test]
fn long_user_info_is_masked_although_its_end_is_not_captured() {
    for method in ["CONNECT ", "GET http://"] {
        let line = format!("{method}user:{}@host:443 HTTP/1.1\r\n\r\n", "s3cret".repeat(100));
        let whole = String::from_utf8(redacted_of(
            &mut Redactor::default(),
            0,
            line.len(),
            &line.as_bytes()[..HEAD_MAX],
        ));
        let whole = whole.unwrap();
        assert_eq!(whole, format!("{method}{}", "*".repeat(HEAD_MAX - method.len())));
        for size in [1, 7, 100, HEAD_MAX - 1, HEAD_MAX] {
            let seen = seen(line.as_bytes(), size);
            assert!(seen.starts_with(&whole) && !seen.contains("s3cret"), "{size}: {seen}");
        }
    }
    let long_path = format!("GET http://host.example:80/{} HTTP/1.1\r\n", "x".repeat(600));
    assert!(seen(long_path.as_bytes(), HEAD_MAX).starts_with("GET http://host.example:80/***"));
}

#[test]
fn head_is_masked_alike_whether_it_was_sent_at_once_or_in_pieces() {
    let padding = "x".repeat(480);
    for header in ["User-Agent: curl/7.88.1", "Host: a.example:443", "X-Long: y"] {
        for shorter in 0..80 {
            let head =
                format!("CONNECT a:1 HTTP/1.1\r\nA: {}\r\n{header}\r\n{header}\r\n\r\n", &padding[shorter..]);
            let bytes = head.as_bytes();
            let captured = bytes.len().min(HEAD_MAX);
            let whole = redacted_of(&mut Redactor::default(), 0, bytes.len(), &bytes[..captured]);
            for size in [1, 13, 300] {
                assert_eq!(&seen(bytes, size).as_bytes()[..captured], whole, "{shorter} {size}");
            }
        }
    }
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
    assert_eq!((redactor.flows.len(), redactor.held_bytes()), (0, 0));
    redacted(&mut redactor, 0, b"CONNECT a:443 HTTP/1.1\r\nHost: a");
    assert_eq!((redactor.flows.len(), redactor.held_bytes()), (1, 7));
}

#[test]
fn head_behind_an_interim_reply_or_a_request_is_redacted_as_a_head() {
    let replies = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nserver: envoy\r\nx: t0ken\r\n\r\n";
    let requests = b"CONNECT a:1 HTTP/1.1\r\n\r\nCONNECT b:1 HTTP/1.1\r\nCookie: t0ken\r\n\r\nt0ken";
    let replies = seen_in_any_split(replies);
    assert!(replies.contains("HTTP/1.1 404 *** *****\r\nserver: envoy\r\nx: *"), "{replies}");
    let requests = seen_in_any_split(requests);
    assert!(requests.contains("\r\n\r\nCONNECT b:1 HTTP/1.1\r\n"), "{requests}");
    assert!(!requests.contains("t0ken"), "{requests}");
}

#[test]
fn bodies_and_pipelined_targets_are_masked() {
    let head = b"POST http://h/ HTTP/1.1\r\n\r\nGETsecret";
    let pipelined = b"CONNECT a:1 HTTP/1.1\r\n\r\nGET http://u:secret@h/secret?secret HTTP/1.1\r\n\r\n";
    for whole in [&head[..], pipelined] {
        let seen = seen_in_any_split(whole);
        assert!(!seen.contains("secret"), "{seen}");
    }
}

#[test]
fn other_protocols_keep_only_the_header_of_a_tls_record() {
    assert_eq!(seen_in_any_split(b"\x16\x03\x01\x02\x00\x01\x00secret"), "\x16\x03\x01\x02\x00********");
    assert_eq!(seen_in_any_split(b"PASS secret\r\n"), "*************");
    assert_eq!(seen(b"CONNECT a:1 HTTP/1.1\r\n\r\n", 30), "CONNECT a:1 HTTP/1.1\r\n\r\n");
    let mut redactor = Redactor::default();
    redacted(&mut redactor, 0, b"CONNECT a:1 HTTP/1.1\r\n\r\n");
    assert_eq!(redacted(&mut redactor, 24, b"\x16\x03\x01\x02\x00secret"), b"\x16\x03\x01********");
}

/// Was unbounded: each piece without a line end was kept, of as many connections as there were.
#[test]
fn connections_that_never_end_their_first_line_take_bounded_memory() {
    let mut redactor = Redactor::default();
    for round in 0..100 {
        for flow in 0..4_000_u64 {
            let data = if round == 0 { &b"GET http"[..] } else { b"GET httpGET httpGET http" };
            let offset = if round == 0 { 0 } else { 8 + (round - 1) * 24 };
            let mut event = piece(flow, offset, data.len(), data);
            event.netns = flow / 100;
            redactor.redact(&mut event);
        }
        assert!(redactor.held_bytes() <= 4_000 * HEAD_MAX, "{}", redactor.held_bytes());
    }
    assert_eq!(redactor.held_bytes(), 0, "lines that are longer than what is kept need no bytes");
}
