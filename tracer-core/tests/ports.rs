//! An app may use one port towards two addresses, and something in its way may translate one of them: an answer is never
//! given to the other connection.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, Interception, Role, What},
    report::Reports,
    verdict::Verdict,
};

const SECOND: u64 = 1_000_000_000;
const DENIED: &str = "HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n";

/// Two connections of one client port to two ports of a pod, and what its sidecar accepted from that port.
struct Pod {
    core: Engine,
    reports: Reports,
    /// The accepted socket that the app's leg tells of.
    told: Option<u64>,
}

impl Pod {
    fn new() -> Self {
        let core = Engine::new(Settings {
            deadline: 10 * SECOND,
            clock_offset: 0,
            inbound_ports: vec![15006],
            capacity: 100,
            keep: 3600 * SECOND,
            node: None,
            probes: "cgroup".into(),
            naming: 0,
            remember: 0,
        });
        Self { core, reports: Vec::new(), told: None }
    }

    fn event(mut self, time: u64, flow: u64, opened: u64, role: Role, port: u16, what: What) -> Self {
        let client = SocketAddr::from(([10, 99, 0, 2], 40_000));
        let server = SocketAddr::from(([10, 99, 0, 9], port));
        let (local, remote) = if role == Role::App { (client, server) } else { (server, client) };
        let event = Event {
            time,
            flow,
            role,
            opened: Some(opened),
            netns: 1,
            sidecar: (role == Role::App).then_some(Interception { port: 15006, netns: 1, client_port: None }),
            task: None,
            link: self.told.filter(|_| role == Role::App),
            cgroup: 0,
            uid: 0,
            lost: 0,
            local,
            remote,
            answered: false,
            what,
        };
        self.core.feed(Input::Event(event), &mut self.reports);
        self
    }

    /// A connection that was opened at `opened` asks.
    fn asks(self, flow: u64, opened: u64, port: u16) -> Self {
        let what = sent(&format!("CONNECT port{port}.example:443 HTTP/1.1\r\n\r\n"));
        self.event(opened + 20, flow, opened, Role::App, port, what)
    }

    /// The sidecar answers on the socket that it accepted at `opened`.
    fn answers(self, time: u64, opened: u64) -> Self {
        self.event(time, 9, opened, Role::Reply, 15006, sent(DENIED))
    }

    fn verdicts(mut self) -> Vec<(u16, Verdict)> {
        self.core.feed(Input::Tick(60 * SECOND), &mut self.reports);
        self.reports.iter().map(|report| (report.proxy.port, report.verdict)).collect()
    }
}

fn sent(text: &str) -> What {
    let total = u32::try_from(text.len()).expect("short");
    What::Sent { offset: 0, total, data: text.as_bytes().into() }
}

#[test]
fn an_answer_is_the_older_connections() {
    let verdicts = Pod::new().asks(1, 100, 3128).asks(2, 200, 8080).answers(300, 110).verdicts();
    assert_eq!(verdicts, [(3128, Verdict::HandledAsHttp), (8080, Verdict::Unanswered)]);
}

#[test]
fn nobody_is_blamed_for_the_answer_to_a_connection_that_is_not_followed() {
    let verdicts = Pod::new().asks(2, 200, 8080).answers(300, 110).verdicts();
    assert_eq!(verdicts, [(8080, Verdict::Unanswered)]);
}

#[test]
fn nobody_is_blamed_for_the_end_of_a_connection_that_is_not_followed() {
    let pod = Pod::new().event(150, 9, 110, Role::Reply, 15006, What::Ended(End::ClosedHere));
    assert_eq!(pod.asks(2, 140, 8080).verdicts(), [(8080, Verdict::Unanswered)]);
}

#[test]
fn a_port_that_was_given_back_is_the_new_connections() {
    let pod = Pod::new().asks(1, 100, 3128).event(150, 1, 100, Role::App, 3128, What::Ended(End::ClosedHere));
    let verdicts = pod.asks(2, 200, 8080).answers(300, 210).verdicts();
    assert!(verdicts.contains(&(8080, Verdict::HandledAsHttp)), "{verdicts:?}");
}

/// The kernel knows a peer by its address: until the sidecar accepts the new connection, that is the socket it accepted before.
#[test]
fn the_socket_of_an_earlier_connection_from_the_port_does_not_hide_the_answer() {
    let pod = Pod { told: Some(7), ..Pod::new() };
    assert_eq!(pod.asks(2, 200, 8080).answers(300, 210).verdicts(), [(8080, Verdict::HandledAsHttp)]);
}
