//! Records that one pod's processes made too many of cost that pod its evidence, and no other pod.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{Event, EventKind, Interception, Role},
    verdict::{Reason, Verdict},
};

const SECOND: u64 = 1_000_000_000;

/// A CONNECT of a pod and its sidecar's answer, at which `throttled` records of that pod were not written.
fn session(pod: u64, time: u64, throttled: u32) -> [Event; 2] {
    let number = u8::try_from(pod).expect("small");
    let app = SocketAddr::from(([10, number, 0, 1], 40_000));
    let proxy = SocketAddr::from(([10, 0, 0, 1], 3128));
    let sent = |text: &str| EventKind::Sent {
        offset: 0,
        total: u32::try_from(text.len()).expect("short"),
        data: text.as_bytes().into(),
    };
    let request = Event {
        opened: Some(time),
        netns: pod,
        sidecar: Some(Interception { port: 15001, netns: pod, client_port: None }),
        link: Some(time + 1),
        ..Event::new(time, time, Role::App, app, proxy, sent("CONNECT a.example:443 HTTP/1.1\r\n\r\n"))
    };
    let listener = SocketAddr::from(([127, 0, 0, 1], 15001));
    let answer = Event {
        opened: Some(time + 1),
        netns: pod,
        throttled,
        ..Event::new(time + 2, time + 1, Role::Reply, listener, app, sent("HTTP/1.1 404 Not Found\r\n\r\n"))
    };
    [request, answer]
}

#[test]
fn sessions_of_a_throttled_pod_are_undetermined_and_those_of_its_neighbor_are_not() {
    let mut engine = Engine::new(Settings { capacity: 100, ..Settings::default() });
    let mut verdict = |events: [Event; 2]| {
        let mut reports = Vec::new();
        for event in events {
            engine.feed(Input::Event(event), &mut reports);
        }
        let [report] = &reports[..] else { panic!("{reports:?}") };
        (report.verdict, report.reason)
    };
    let flagged = (Verdict::HandledAsHttp, Some(Reason::RouteNotFound));
    let doubted = (Verdict::Undetermined, Some(Reason::RecordsLost));
    assert_eq!(verdict(session(1, SECOND, 0)), flagged);
    // Between the request and the answer, records of pod 1 were not written.
    assert_eq!(verdict(session(1, 2 * SECOND, 5)), doubted);
    assert_eq!(verdict(session(2, 3 * SECOND, 0)), flagged);
    // No more since then. A request's own record comes first, and says the same.
    let mut later = session(1, 20 * SECOND, 5);
    later[0].throttled = 5;
    assert_eq!(verdict(later), flagged);
}
