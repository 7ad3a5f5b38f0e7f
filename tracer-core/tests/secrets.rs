//! No secret that an app puts anywhere into a request, split as it likes, comes out of the redactor: so it can be in no
//! recording, and in no report.

use std::net::SocketAddr;

use proptest::prelude::*;
use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{Event, EventKind, Interception, Role},
    redact::Redactor,
};

const SECOND: u64 = 1_000_000_000;

fn event(flow: u64, role: Role, offset: usize, data: &[u8]) -> Event {
    let app = SocketAddr::from(([10, 1, 0, 1], 40_000));
    let proxy = SocketAddr::from(([10, 0, 0, 1], 3128));
    let (local, remote) = if role == Role::App { (app, proxy) } else { (proxy, app) };
    Event {
        opened: Some(1),
        netns: 1,
        sidecar: (role == Role::App).then_some(Interception { port: 15001, netns: 1, client_port: None }),
        uid: 1000,
        ..Event::new(
            SECOND,
            flow,
            role,
            local,
            remote,
            EventKind::Sent {
                offset: u32::try_from(offset).expect("short"),
                total: u32::try_from(data.len()).expect("short"),
                data: data.into(),
            },
        )
    }
}

/// Everything that comes out for an app's bytes, in pieces of these sizes: recorded inputs and reports.
fn outputs(bytes: &[u8], sizes: &[usize]) -> String {
    let mut redactor = Redactor::default();
    let mut engine = Engine::new(Settings { capacity: 100, keep: 60 * SECOND, ..Settings::default() });
    let (mut reports, mut out, mut at) = (Vec::new(), String::new(), 0);
    let mut sizes = sizes.iter().copied().cycle();
    let mut inputs = Vec::new();
    while at < bytes.len() {
        let end = bytes.len().min(at + sizes.next().unwrap_or(512).clamp(1, 512));
        inputs.push(event(1, Role::App, at, &bytes[at..end]));
        at = end;
    }
    inputs.push(event(2, Role::Reply, 0, b"HTTP/1.1 404 Not Found\r\nserver: envoy\r\n\r\n"));
    for mut event in inputs {
        redactor.redact(&mut event);
        let input = Input::Event(event);
        out.push_str(&serde_json::to_string(&input).expect("JSON"));
        engine.feed(input, &mut reports);
    }
    engine.feed(Input::Tick(100 * SECOND), &mut reports);
    for report in reports {
        out.push_str(&report.to_json());
    }
    out
}

/// A secret of several parts between characters that parsers treat differently. A part is long enough to be found, and
/// has a digit, so that no name of a header or a program is one.
fn secret() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-z]{2}[0-9][A-Za-z0-9]{4}", 1..5)
}

fn separator() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/", "#", "?", ":", "%3A", "%40", ";", "=", "&", "!", "$", "\\", "\"", "@", "~", "\r",
    ])
}

/// Requests with `S` where a secret is.
const REQUESTS: [&str; 20] = [
    "CONNECT user:S@host.example:443 HTTP/1.1\r\n\r\n",
    "CONNECT  user:S@host.example:443  HTTP/1.1\r\n\r\n",
    "CONNECT S@host.example:443 HTTP/1.1\r\n\r\n",
    "CONNECT host.example:443;token=S HTTP/1.1\r\n\r\n",
    "CONNECT host.example:443 S HTTP/1.1\r\n\r\n",
    "CONNECT host.example:443 HTTP/1.1\rX: S\r\n\r\n",
    "CONNECT host.example:443\tS HTTP/1.1\r\n\r\n",
    "GET http://user:S@host.example/ HTTP/1.1\r\n\r\n",
    "GET http://user:S@host.example:8080/S?S#S HTTP/1.1\r\n\r\n",
    "GET http://host.example?S HTTP/1.1\r\n\r\n",
    "PUT http://host.example;S/ HTTP/1.1\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nProxy-Authorization: Basic S\r\nCookie: S\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nProxy-Authorization: Basic\r\n S\r\n\tS\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nS\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nS: x\r\nHost: S@a\r\nHost: user:S@a\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nUser-Agent: curl/8.1 S\r\nUser-Agent: S\r\nVia: 1.1 S\r\nServer: S\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nConnection: S\r\nExpect: S\r\nContent-Type: S\r\nTransfer-Encoding: S\r\n\r\n",
    "POST http://a/ HTTP/1.1\r\nContent-Length: 9\r\n\r\nS",
    "CONNECT a:443 HTTP/1.1\r\n\r\nGET http://user:S@h/S HTTP/1.1\r\nX: S\r\n\r\n",
    "\r\n\r\nS CONNECT a:443 HTTP/1.1\r\n\r\n",
];

proptest! {
    #[test]
    fn no_part_of_a_secret_comes_out(
        request in prop::sample::select(&REQUESTS[..]),
        parts in secret(),
        separator in separator(),
        padding in prop::sample::select(vec![0, 1, 400, 480, 490, 600]),
        sizes in prop::collection::vec(1_usize..600, 1..6),
    ) {
        // What stands behind the last `@` of an authority is a host, whatever comes before.
        prop_assume!(separator != "@" || !request.contains(';'));
        let secret = format!("{}{}", "p4dding".repeat(padding / 7), parts.join(separator));
        let request = request.replace('S', &secret);
        let out = outputs(request.as_bytes(), &sizes);
        prop_assert!(out.contains("app"), "{}", out);
        for part in parts.iter().map(String::as_str).chain((padding > 6).then_some("p4dding")) {
            prop_assert!(!out.contains(part), "{} of {:?} is in {}", part, request, out);
        }
    }

    /// The two legs of a session may be split differently, and their bytes must compare equal.
    #[test]
    fn masking_does_not_depend_on_how_a_head_is_split(
        request in prop::sample::select(&REQUESTS[..]),
        parts in secret(),
        separator in separator(),
        sizes in prop::collection::vec(1_usize..600, 1..6),
    ) {
        let request = request.replace('S', &parts.join(separator));
        let joined = |sizes: &[usize]| {
            let (mut redactor, mut joined, mut at) = (Redactor::default(), Vec::new(), 0);
            let mut sizes = sizes.iter().copied().cycle();
            while at < request.len() {
                let end = request.len().min(at + sizes.next().unwrap_or(512).clamp(1, 512));
                let mut event = event(1, Role::App, at, &request.as_bytes()[at..end]);
                redactor.redact(&mut event);
                let EventKind::Sent { offset, data, .. } = event.kind else { panic!("it sends") };
                assert_eq!(usize::try_from(offset).expect("short"), joined.len(), "pieces are contiguous");
                joined.extend_from_slice(&data);
                at = end;
            }
            joined
        };
        // What is no head may begin a head in any piece.
        prop_assume!(request.len() <= 512 && !request.starts_with('\r'));
        prop_assert_eq!(joined(&[512]), joined(&sizes));
    }
}
