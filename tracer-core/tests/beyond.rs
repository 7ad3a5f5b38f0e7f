//! Both pods have a sidecar. The app's passes its CONNECT on, and the proxy's answers in place of the proxy, or passes it on, too.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{Event, EventKind, Interception, Role, Task},
    report::{Direction, Report, Reports},
    verdict::{Reason, Verdict},
};

const CONNECT: &str = "CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";
const NOT_FOUND: &str =
    "HTTP/1.1 404 Not Found\r\nserver: istio-envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\nServer: squid/5.7\r\nContent-Length: 0\r\n\r\n";

/// The network namespaces of the two pods.
const APPS: u64 = 1;
const PROXYS: u64 = 2;
/// The app's leg, the socket that its sidecar accepted, and the one that it dialed for that.
const APP: u64 = 1;
const ACCEPTED: u64 = 2;
const UPSTREAM: u64 = 3;
/// The socket that the proxy's sidecar accepted, and the one that it dialed for that.
const ACCEPTED_BEYOND: u64 = 4;
const UPSTREAM_BEYOND: u64 = 5;

/// One session through both sidecars.
struct Path {
    core: Engine,
    reports: Reports,
    time: u64,
    lost: u32,
    /// The address of the pod in which the second sidecar accepts.
    beyond: [u8; 4],
}

impl Path {
    /// The app has sent its CONNECT, and its sidecar has passed it on.
    fn begun() -> Self {
        let core = Engine::new(Settings { capacity: 100, ..Settings::default() });
        let path = Self { core, reports: Vec::new(), time: 100, lost: 0, beyond: [10, 0, 0, 9] };
        path.event(APP, sent(CONNECT)).event(UPSTREAM, EventKind::Dialed).event(UPSTREAM, sent(CONNECT))
    }

    fn event(mut self, flow: u64, kind: EventKind) -> Self {
        self.time += 10;
        let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        let (app, upstream, proxy) =
            (at([10, 0, 0, 2], 40_000), at([10, 0, 0, 2], 50_000), at([10, 0, 0, 9], 3128));
        let (role, netns, local, remote, link) = match flow {
            APP => (Role::App, APPS, app, proxy, Some(ACCEPTED)),
            ACCEPTED => (Role::Reply, APPS, at([127, 0, 0, 1], 15001), app, Some(UPSTREAM)),
            UPSTREAM => (Role::Upstream, APPS, upstream, proxy, Some(ACCEPTED)),
            ACCEPTED_BEYOND => (Role::Reply, PROXYS, at(self.beyond, 15006), upstream, None),
            _ => (Role::Upstream, PROXYS, at([127, 0, 0, 6], 60_000), proxy, Some(ACCEPTED_BEYOND)),
        };
        let comm = if role == Role::App { "curl" } else { "wrk:worker_0" };
        let pid = u32::try_from(netns).expect("small") * 100;
        let event = Event {
            opened: Some(self.time.min(120)),
            netns,
            sidecar: (role == Role::App).then_some(Interception { port: 15001, netns, client_port: None }),
            task: Some(Task { pid, tid: pid, comm: comm.into(), cgroup: netns }),
            link,
            lost: self.lost,
            ..Event::new(self.time, flow, role, local, remote, kind)
        };
        self.core.feed(Input::Event(event), &mut self.reports);
        self
    }

    /// The proxy's sidecar accepts in another pod than that of the dialed address.
    fn in_another_pod(self) -> Self {
        Self { beyond: [10, 0, 0, 8], ..self }
    }

    fn loses_a_record(mut self) -> Self {
        self.lost += 1;
        self
    }

    /// The app gets this.
    fn answered(self, reply: &str) -> Report {
        let [report] =
            <[Box<Report>; 1]>::try_from(self.event(ACCEPTED, sent(reply)).reports).expect("one report");
        *report
    }
}

fn sent(text: &str) -> EventKind {
    let total = u32::try_from(text.len()).expect("short");
    EventKind::Sent { offset: 0, total, data: text.as_bytes().into() }
}

fn said(report: &Report) -> (Verdict, Option<Reason>, Direction) {
    (report.verdict, report.reason, report.direction)
}

#[test]
fn answer_of_the_proxys_own_sidecar_is_its_own() {
    let report = Path::begun().event(ACCEPTED_BEYOND, sent(NOT_FOUND)).answered(NOT_FOUND);
    assert_eq!(
        said(&report),
        (Verdict::HandledAsHttp, Some(Reason::RouteNotFound), Direction::Inbound),
        "{report:?}"
    );
    let interceptor = report.interceptor.expect("an interceptor");
    assert_eq!((interceptor.port, interceptor.pid), (15006, Some(200)));
    assert!(report.flagged && report.upstream.is_none());
}

#[test]
fn answer_that_the_proxys_sidecar_passed_on_is_the_proxys() {
    for reply in [FORBIDDEN, NOT_FOUND] {
        let path = Path::begun()
            .event(UPSTREAM_BEYOND, EventKind::Dialed)
            .event(UPSTREAM_BEYOND, sent(CONNECT))
            .event(ACCEPTED_BEYOND, sent(reply));
        assert_eq!(said(&path.answered(reply)), (Verdict::RefusedByProxy, None, Direction::Outbound));
    }
}

#[test]
fn answer_that_came_from_elsewhere_is_not_the_proxys_sidecars() {
    for path in [
        Path::begun().in_another_pod().event(ACCEPTED_BEYOND, sent(NOT_FOUND)),
        // A record may have told of its dial.
        Path::begun().loses_a_record().event(ACCEPTED_BEYOND, sent(NOT_FOUND)),
        // The app got something else.
        Path::begun().event(ACCEPTED_BEYOND, sent(FORBIDDEN)),
        Path::begun(),
    ] {
        let report = path.answered(NOT_FOUND);
        assert!(!report.flagged && report.direction == Direction::Outbound, "{report:?}");
    }
}
