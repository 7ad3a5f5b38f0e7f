//! The core's memory is bounded: a flood of requests that nobody answers drops the oldest, and counts them; sessions that
//! never end are forgotten.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, Interception, Role, What},
    verdict::Verdict,
};

const SECOND: u64 = 1_000_000_000;
const CAPACITY: usize = 100;

fn core() -> Engine {
    Engine::new(Settings {
        deadline: 10 * SECOND,
        clock_offset: 0,
        inbound_ports: vec![15006],
        capacity: CAPACITY,
        keep: 60 * SECOND,
        node: None,
        probes: "cgroup".into(),
        naming: 0,
        remember: 0,
    })
}

/// The `number`th connection's CONNECT, and the sidecar's own dial beside it.
fn asks(number: u32, time: u64) -> [Event; 2] {
    let [_, high, middle, low] = number.to_be_bytes();
    let head = format!("CONNECT t{number}.example:443 HTTP/1.1\r\n\r\n");
    let app = Event {
        time,
        flow: u64::from(number) * 2 + 2,
        role: Role::App,
        opened: Some(time),
        netns: 1,
        sidecar: Some(Interception { port: 15001, netns: 1, client_port: None }),
        task: None,
        link: None,
        cgroup: 0,
        uid: 1000,
        lost: 0,
        local: SocketAddr::from(([10, high, middle, low], 40_000)),
        remote: SocketAddr::from(([10, 0, 0, 1], 3128)),
        answered: false,
        what: What::Sent {
            offset: 0,
            total: u32::try_from(head.len()).expect("short"),
            data: head[..].into(),
        },
    };
    let dial = Event {
        flow: u64::from(number) * 2 + 3,
        role: Role::Upstream,
        sidecar: None,
        uid: 1337,
        what: What::Dialed,
        ..app.clone()
    };
    [app, dial]
}

#[test]
fn a_flood_drops_the_oldest_and_counts_them() {
    let mut core = core();
    let mut reports = Vec::new();
    for number in 0..1_000 {
        for event in asks(number, SECOND + u64::from(number)) {
            core.feed(Input::Event(event), &mut reports);
        }
        let stats = core.stats();
        // One may come in before the next input makes room.
        assert!(stats.connections <= CAPACITY + 1 && stats.upstreams <= CAPACITY + 1, "{stats:?}");
    }
    core.feed(Input::Tick(2 * SECOND), &mut reports);
    assert_eq!((core.stats().connections, core.stats().dropped), (CAPACITY, 900));
    assert_eq!(reports.len(), 0, "nothing was answered, and no deadline has passed");
    core.feed(Input::Tick(20 * SECOND), &mut reports);
    assert_eq!(reports.len(), CAPACITY, "those that were kept are unanswered");
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

/// The `number`th connection becomes a tunnel.
fn granted(number: u32, time: u64) -> [Event; 4] {
    let [app, dial] = asks(number, time);
    let reply = 1_000_000 + u64::from(number);
    let passed_on = Event { link: Some(reply), what: app.what.clone(), ..dial.clone() };
    let granted = Event {
        flow: reply,
        role: Role::Reply,
        sidecar: None,
        link: Some(dial.flow),
        uid: 1337,
        local: SocketAddr::from(([127, 0, 0, 1], 15001)),
        remote: app.local,
        what: sent("HTTP/1.1 200 OK\r\n\r\n"),
        ..app.clone()
    };
    [app, dial, passed_on, granted]
}

fn sent(text: &'static str) -> What {
    let total = u32::try_from(text.len()).expect("short");
    What::Sent { offset: 0, total, data: text.as_bytes().into() }
}

#[test]
fn so_are_tunnels_and_the_oldest_of_a_flood() {
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
fn what_goes_through_a_tunnel_is_nobodys_request() {
    let mut core = core();
    let mut reports = Vec::new();
    let events = granted(1, SECOND);
    for event in &events {
        core.feed(Input::Event(event.clone()), &mut reports);
    }
    let [app, _, upstream, reply] = events;
    let inside = || sent("CONNECT inside.example:443 HTTP/1.1\r\n\r\n");
    for mut event in [app.clone(), upstream] {
        event.what = inside();
        core.feed(Input::Event(event), &mut reports);
    }
    core.feed(
        Input::Event(Event { what: sent("HTTP/1.1 404 Not Found\r\n\r\n"), ..reply.clone() }),
        &mut reports,
    );
    assert_eq!((core.stats().connections, core.stats().pending, reports.len()), (1, 0, 1));
    // Its sidecar's end of it is the last.
    for event in [app, reply] {
        assert_eq!(core.stats().connections, 1);
        core.feed(Input::Event(Event { what: What::Ended(End::ClosedHere), ..event }), &mut reports);
    }
    assert_eq!((core.stats().connections, core.stats().upstreams, reports.len()), (0, 0, 1));
}

/// Nothing more can be learned of it, and its end may not be told.
#[test]
fn a_connection_without_a_sidecar_is_forgotten_once_reported() {
    let (mut core, mut reports) = (core(), Vec::new());
    let [mut app, _] = asks(1, SECOND);
    app.sidecar = None;
    for nth in 1..=2 {
        core.feed(Input::Event(app.clone()), &mut reports);
        assert_eq!((reports.len(), core.stats().connections), (nth, 0));
        let What::Sent { offset, total, .. } = &mut app.what else { panic!("it sends") };
        *offset += *total; // the next on the same connection
    }
}
