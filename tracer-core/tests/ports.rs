//! An app may use one port towards two addresses, of which address translation may change one. An answer is never
//! matched to the other connection.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, EventKind, Interception, Role},
    report::Reports,
    verdict::Verdict,
};

const SECOND: u64 = 1_000_000_000;
const DENIED: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";

/// Two connections from one client port to two ports of a pod, and the socket that its sidecar accepted from that port.
struct Pod {
    core: Engine,
    reports: Reports,
    /// The accepted socket that the app's leg names.
    told: Option<u64>,
}

impl Pod {
    fn new() -> Self {
        let core = Engine::new(Settings { capacity: 100, ..Settings::default() });
        Self { core, reports: Vec::new(), told: None }
    }

    fn event(mut self, time: u64, flow: u64, opened: u64, role: Role, port: u16, kind: EventKind) -> Self {
        let client = SocketAddr::from(([10, 99, 0, 2], 40_000));
        let server = SocketAddr::from(([10, 99, 0, 9], port));
        let (local, remote) = if role == Role::App { (client, server) } else { (server, client) };
        let event = Event {
            opened: Some(opened),
            netns: 1,
            sidecar: (role == Role::App).then_some(Interception { port: 15006, netns: 1, client_port: None }),
            link: self.told.filter(|_| role == Role::App),
            ..Event::new(time, flow, role, local, remote, kind)
        };
        self.core.feed(Input::Event(event), &mut self.reports);
        self
    }

    /// A connection opened at `opened` sends a request.
    fn asks(self, flow: u64, opened: u64, port: u16) -> Self {
        let kind = sent(&format!("CONNECT port{port}.example:443 HTTP/1.1\r\n\r\n"));
        self.event(opened + 20, flow, opened, Role::App, port, kind)
    }

    /// The sidecar answers on the socket accepted at `opened`.
    fn answers(self, time: u64, opened: u64) -> Self {
        self.event(time, 9, opened, Role::Reply, 15006, sent(DENIED))
    }

    fn verdicts(mut self) -> Vec<(u16, Verdict)> {
        self.core.feed(Input::Tick(60 * SECOND), &mut self.reports);
        self.reports.iter().map(|report| (report.proxy.port, report.verdict)).collect()
    }
}

fn sent(text: &str) -> EventKind {
    let total = u32::try_from(text.len()).expect("short");
    EventKind::Sent { offset: 0, total, data: text.as_bytes().into() }
}

#[test]
fn answer_belongs_to_the_older_connection() {
    let verdicts = Pod::new().asks(1, 100, 3128).asks(2, 200, 8080).answers(300, 110).verdicts();
    assert_eq!(verdicts, [(3128, Verdict::HandledAsHttp), (8080, Verdict::Unanswered)]);
}

#[test]
fn answer_to_an_unknown_connection_flags_no_other() {
    let verdicts = Pod::new().asks(2, 200, 8080).answers(300, 110).verdicts();
    assert_eq!(verdicts, [(8080, Verdict::Unanswered)]);
}

#[test]
fn end_of_an_unknown_connection_flags_no_other() {
    let pod = Pod::new().event(150, 9, 110, Role::Reply, 15006, EventKind::Ended(End::ClosedHere));
    assert_eq!(pod.asks(2, 140, 8080).verdicts(), [(8080, Verdict::Unanswered)]);
}

#[test]
fn reused_port_belongs_to_the_new_connection() {
    let pod =
        Pod::new().asks(1, 100, 3128).event(150, 1, 100, Role::App, 3128, EventKind::Ended(End::ClosedHere));
    let verdicts = pod.asks(2, 200, 8080).answers(300, 210).verdicts();
    assert!(verdicts.contains(&(8080, Verdict::HandledAsHttp)), "{verdicts:?}");
}

/// The kernel side knows a peer by its address. Until the sidecar accepts the new connection, that address names the
/// socket of the earlier one.
#[test]
fn socket_of_an_earlier_connection_from_the_port_does_not_hide_the_answer() {
    let pod = Pod { told: Some(7), ..Pod::new() };
    assert_eq!(pod.asks(2, 200, 8080).answers(300, 210).verdicts(), [(8080, Verdict::HandledAsHttp)]);
}
