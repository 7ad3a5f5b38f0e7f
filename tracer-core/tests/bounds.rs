//! The engine's memory is bounded: beyond its capacity the oldest sessions are dropped and counted, and sessions that
//! never end are forgotten.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, EventKind, Interception, Role},
    verdict::Verdict,
};

const SECOND: u64 = 1_000_000_000;
const CAPACITY: usize = 100;

fn core() -> Engine {
    Engine::new(Settings { capacity: CAPACITY, keep: 60 * SECOND, ..Settings::default() })
}

/// The CONNECT of connection `number`, and the sidecar's dial for it.
fn asks(number: u32, time: u64) -> [Event; 2] {
    let [_, high, middle, low] = number.to_be_bytes();
    let head = format!("CONNECT t{number}.example:443 HTTP/1.1\r\n\r\n");
    let total = u32::try_from(head.len()).expect("short");
    let app = Event {
        opened: Some(time),
        netns: 1,
        sidecar: Some(Interception { port: 15001, netns: 1, client_port: None }),
        uid: 1000,
        ..Event::new(
            time,
            u64::from(number) * 2 + 2,
            Role::App,
            SocketAddr::from(([10, high, middle, low], 40_000)),
            SocketAddr::from(([10, 0, 0, 1], 3128)),
            EventKind::Sent { offset: 0, total, data: head[..].into() },
        )
    };
    let dial = Event {
        flow: u64::from(number) * 2 + 3,
        role: Role::Upstream,
        sidecar: None,
        uid: 1337,
        kind: EventKind::Dialed,
        ..app.clone()
    };
    [app, dial]
}

#[test]
fn oldest_sessions_are_dropped_and_counted_beyond_the_capacity() {
    let mut core = core();
    let mut reports = Vec::new();
    for number in 0..1_000 {
        for event in asks(number, SECOND + u64::from(number)) {
            core.feed(Input::Event(event), &mut reports);
        }
        let stats = core.stats();
        // The next input makes room, so there may be one too many.
        assert!(stats.connections <= CAPACITY + 1 && stats.upstreams <= CAPACITY + 1, "{stats:?}");
    }
    core.feed(Input::Tick(2 * SECOND), &mut reports);
    assert_eq!((core.stats().connections, core.stats().dropped), (CAPACITY, 900));
    assert_eq!(reports.len(), 0, "no answer, and no deadline has passed");
    core.feed(Input::Tick(20 * SECOND), &mut reports);
    assert_eq!(reports.len(), CAPACITY, "the kept ones are unanswered");
}

#[test]
fn sessions_that_never_end_are_forgotten() {
    let mut core = core();
    let mut reports = Vec::new();
    for number in 0..10 {
        for event in asks(number, SECOND) {
            core.feed(Input::Event(event), &mut reports);
        }
    }
    core.feed(Input::Tick(20 * SECOND), &mut reports);
    assert_eq!((reports.len(), core.stats().connections, core.stats().upstreams), (10, 10, 0));
    core.feed(Input::Tick(100 * SECOND), &mut reports);
    assert_eq!((reports.len(), core.stats().connections, core.stats().dropped), (10, 0, 0));
}

/// Connection `number` becomes a tunnel.
fn granted(number: u32, time: u64) -> [Event; 4] {
    let [app, dial] = asks(number, time);
    let reply = 1_000_000 + u64::from(number);
    let passed_on = Event { link: Some(reply), kind: app.kind.clone(), ..dial.clone() };
    let granted = Event {
        flow: reply,
        role: Role::Reply,
        sidecar: None,
        link: Some(dial.flow),
        uid: 1337,
        local: SocketAddr::from(([127, 0, 0, 1], 15001)),
        remote: app.local,
        kind: sent("HTTP/1.1 200 OK\r\n\r\n"),
        ..app.clone()
    };
    [app, dial, passed_on, granted]
}

fn sent(text: &'static str) -> EventKind {
    let total = u32::try_from(text.len()).expect("short");
    EventKind::Sent { offset: 0, total, data: text.as_bytes().into() }
}

#[test]
fn tunnels_are_dropped_beyond_the_capacity_and_forgotten_when_they_never_end() {
    let mut core = core();
    let mut reports = Vec::new();
    for number in 0..1_000 {
        for event in granted(number, SECOND + u64::from(number)) {
            core.feed(Input::Event(event), &mut reports);
        }
        assert!(core.stats().connections <= CAPACITY + 1, "{:?}", core.stats());
    }
    core.feed(Input::Tick(2 * SECOND), &mut reports);
    assert_eq!((core.stats().connections, core.stats().dropped, reports.len()), (CAPACITY, 900, 1_000));
    assert!(reports.iter().all(|report| report.verdict == Verdict::Tunneled));
    core.feed(Input::Tick(100 * SECOND), &mut reports);
    assert_eq!((core.stats().connections, core.stats().upstreams, core.stats().dropped), (0, 0, 900));
}

#[test]
fn payload_of_a_tunnel_is_not_taken_for_a_request() {
    let mut core = core();
    let mut reports = Vec::new();
    let events = granted(1, SECOND);
    for event in &events {
        core.feed(Input::Event(event.clone()), &mut reports);
    }
    let [app, _, upstream, reply] = events;
    let inside = || sent("CONNECT inside.example:443 HTTP/1.1\r\n\r\n");
    for mut event in [app.clone(), upstream] {
        event.kind = inside();
        core.feed(Input::Event(event), &mut reports);
    }
    core.feed(
        Input::Event(Event { kind: sent("HTTP/1.1 404 Not Found\r\n\r\n"), ..reply.clone() }),
        &mut reports,
    );
    assert_eq!((core.stats().connections, core.stats().pending, reports.len()), (1, 0, 1));
    // The end of the reply leg ends the tunnel.
    for event in [app, reply] {
        assert_eq!(core.stats().connections, 1);
        core.feed(Input::Event(Event { kind: EventKind::Ended(End::ClosedHere), ..event }), &mut reports);
    }
    assert_eq!((core.stats().connections, core.stats().upstreams, reports.len()), (0, 0, 1));
}

/// Its answers are not captured, and its end may not be.
#[test]
fn connection_without_a_sidecar_is_forgotten_once_reported() {
    let (mut core, mut reports) = (core(), Vec::new());
    let [mut app, _] = asks(1, SECOND);
    app.sidecar = None;
    for nth in 1..=2 {
        core.feed(Input::Event(app.clone()), &mut reports);
        assert_eq!((reports.len(), core.stats().connections), (nth, 0));
        let EventKind::Sent { offset, total, .. } = &mut app.kind else { panic!("it sends") };
        *offset += *total; // the next request on the connection
    }
}
