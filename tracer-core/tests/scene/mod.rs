//! One session, step by step: the events that the kernel side would give, fed to the real engine.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, EventKind, Interception, Role, Task},
    pod::{Fact, OwnerKey},
    report::{Report, Reports},
};

const SECOND: u64 = 1_000_000_000;
/// 2026-11-20T11:45:15.123456Z
const CLOCK: u64 = 1_795_175_115_123_456_000;
const NETNS: u64 = 1;
/// The app's.
pub const APP_CGROUP: u64 = 13895;
pub const GRANTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
pub const CURL: &str =
    "CONNECT en.wikipedia.org:443 HTTP/1.1\r\nHost: en.wikipedia.org:443\r\nUser-Agent: curl/7.88.1\r\n\r\n";

/// A session in progress.
pub struct Scene {
    core: Engine,
    reports: Reports,
    time: u64,
    /// 15001, or 15006 if the sidecar is the proxy's. `None`: no sidecar.
    sidecar: Option<u16>,
    seen_from_start: bool,
    lost: u32,
    proxy: SocketAddr,
    upstream: SocketAddr,
    sent: [u32; 3],
    /// The name of the thread that accepts.
    acceptor: &'static str,
    shared_upstream: bool,
    /// Whether the sidecar kept the accepted socket, where that is seen.
    set_up: Option<bool>,
    /// The number of the app's connection.
    connection: u16,
    /// The sidecar has dialed for the accepted connection.
    is_linked: bool,
}

impl Scene {
    /// The app's own sidecar takes its connection to 10.0.0.1:3128.
    pub fn outbound() -> Self {
        let proxy = SocketAddr::from(([10, 0, 0, 1], 3128));
        Self {
            core: core(0),
            reports: Vec::new(),
            time: 0,
            sidecar: Some(15001),
            seen_from_start: true,
            lost: 0,
            proxy,
            upstream: proxy,
            sent: [0; 3],
            acceptor: "wrk:worker_0",
            shared_upstream: false,
            set_up: None,
            connection: 0,
            is_linked: false,
        }
    }

    /// There is a container runtime, which knows names.
    pub fn with_names(self) -> Self {
        Self { core: core(SECOND), ..self }
    }

    /// The proxy's own sidecar takes it.
    pub fn inbound() -> Self {
        Self { sidecar: Some(15006), ..Self::outbound() }
    }

    /// No sidecar takes it.
    pub fn direct() -> Self {
        Self { sidecar: None, ..Self::outbound() }
    }

    /// ztunnel takes it.
    pub fn ztunnel() -> Self {
        Self { acceptor: "ztunnel-proxy-0", ..Self::outbound() }
    }

    /// The connection is older than the probes.
    pub fn joined_late() -> Self {
        Self { seen_from_start: false, ..Self::outbound() }
    }

    /// The app dials a Service's address, and the sidecar an endpoint behind it.
    pub fn to_service() -> Self {
        let [proxy, upstream] = [[10, 96, 0, 50], [10, 244, 2, 7]].map(|ip| SocketAddr::from((ip, 3128)));
        Self { proxy, upstream, ..Self::outbound() }
    }

    /// The app dials this proxy.
    pub fn to(mut self, proxy: &str) -> Self {
        self.proxy = proxy.parse().expect("an address");
        self.upstream = self.proxy;
        self
    }

    /// A record is lost now.
    pub fn loses_records(mut self) -> Self {
        self.lost += 1;
        self
    }

    /// The sidecar receives something on a pooled connection.
    pub fn receives_on_a_shared_connection(self) -> Self {
        Self { shared_upstream: true, ..self }
    }

    /// The pod's redirect leads to a port without a listener.
    pub fn meets_no_listener(self) -> Self {
        self.event(Role::App, EventKind::Ended(End::DialFailed))
    }

    /// A second connection of the app to the same proxy begins, after the first was answered.
    pub fn app_dials_again(mut self) -> Self {
        self.reports.clear();
        self.connection += 1;
        self.sent = [0; 3];
        self.is_linked = false;
        self
    }

    /// The app sends curl's CONNECT.
    pub fn asks(self) -> Self {
        self.app_sends(CURL)
    }

    pub fn app_sends(self, bytes: impl AsRef<[u8]>) -> Self {
        self.sends(Role::App, bytes.as_ref())
    }

    pub fn app_closes(self) -> Self {
        self.event(Role::App, EventKind::Ended(End::ClosedHere))
    }

    pub fn dials(self) -> Self {
        Self { is_linked: true, ..self.event(Role::Upstream, EventKind::Dialed) }
    }

    /// The sidecar dials, and the hooks do not tell for which connection.
    pub fn dials_for_a_request(self) -> Self {
        self.event(Role::Upstream, EventKind::Dialed)
    }

    pub fn dial_fails(self) -> Self {
        self.event(Role::Upstream, EventKind::Ended(End::DialFailed))
    }

    pub fn sends_upstream(self, bytes: impl AsRef<[u8]>) -> Self {
        self.sends(Role::Upstream, bytes.as_ref())
    }

    pub fn proxy_closes(self) -> Self {
        self.event(Role::Upstream, EventKind::Ended(End::ClosedByPeer))
    }

    pub fn answers(self, bytes: impl AsRef<[u8]>) -> Self {
        self.sends(Role::Reply, bytes.as_ref())
    }

    /// The sidecar closes the connection while it builds its filters.
    pub fn sidecar_refuses(self) -> Self {
        Self { set_up: Some(false), ..self }.sidecar_closes()
    }

    /// The sidecar closes a connection that one of its filters had kept.
    pub fn sidecar_drops(self) -> Self {
        Self { set_up: Some(true), ..self }.sidecar_closes()
    }

    pub fn sidecar_closes(self) -> Self {
        self.event(Role::Reply, EventKind::Ended(End::ClosedHere))
    }

    /// Until after the deadline.
    pub fn waits(mut self) -> Self {
        self.time += 11 * SECOND;
        self.core.feed(Input::Tick(self.time), &mut self.reports);
        self
    }

    /// This many ms pass.
    pub fn passes(mut self, ms: u64) -> Self {
        self.time += ms * 1_000_000;
        self.core.feed(Input::Tick(self.time), &mut self.reports);
        self
    }

    /// The container runtime tells a fact.
    pub fn learns(mut self, fact: Fact) -> Self {
        self.time += 100_000;
        self.core.feed(Input::Fact(self.time, fact), &mut self.reports);
        self
    }

    /// The owners that were asked for.
    pub fn wanted(&mut self) -> Vec<OwnerKey> {
        self.core.take_wanted()
    }

    /// The reports so far.
    pub fn reports(self) -> Reports {
        self.reports
    }

    /// The only report.
    pub fn report(self) -> Report {
        let [report] = <[Box<Report>; 1]>::try_from(self.reports).expect("one report");
        *report
    }

    fn sends(mut self, role: Role, bytes: &[u8]) -> Self {
        let leg = usize::try_from(leg(role) - 1).expect("small");
        let total = u32::try_from(bytes.len()).expect("short");
        let offset = self.sent[leg];
        self.sent[leg] += total;
        // The kernel side copies at most this much of a payload.
        let data = bytes[..bytes.len().min(512)].into();
        self.event(role, EventKind::Sent { offset, total, data })
    }

    fn event(mut self, role: Role, kind: EventKind) -> Self {
        self.time += 100_000;
        let app = SocketAddr::from(([10, 99, 0, 2], 38644 + self.connection));
        let task = |pid, comm: &str| Task { pid, tid: pid, comm: comm.into(), cgroup: u64::from(pid) };
        let (local, remote, task) = match role {
            Role::App => (app, self.proxy, task(13895, "curl")),
            Role::Reply => (
                SocketAddr::from(([127, 0, 0, 1], self.sidecar.expect("a sidecar"))),
                app,
                task(13001, self.acceptor),
            ),
            Role::Upstream => (app, self.upstream, task(13001, self.acceptor)),
        };
        let opened = match role {
            Role::App | Role::Reply => 1,
            Role::Upstream => self.time,
        };
        let event = Event {
            opened: self.seen_from_start.then_some(opened),
            netns: NETNS,
            sidecar: self.sidecar.filter(|_| role == Role::App).map(|port| Interception {
                port,
                netns: NETNS,
                client_port: None,
            }),
            task: Some(task),
            link: match role {
                Role::App => self.sidecar.filter(|_| self.seen_from_start).map(|_| Role::Reply),
                Role::Reply => Some(Role::Upstream).filter(|_| self.is_linked),
                Role::Upstream => Some(Role::Reply).filter(|_| self.is_linked),
            }
            .map(|other| leg(other) + 3 * u64::from(self.connection)),
            lost: self.lost,
            shared_upstream: self.shared_upstream && role == Role::Reply,
            set_up: self.set_up.filter(|_| role == Role::Reply),
            ..Event::new(self.time, leg(role) + 3 * u64::from(self.connection), role, local, remote, kind)
        };
        self.core.feed(Input::Event(event), &mut self.reports);
        self
    }
}

fn core(owner_wait: u64) -> Engine {
    Engine::new(Settings {
        clock_offset: CLOCK,
        capacity: 100,
        node: Some("node-1".to_owned()),
        owner_wait,
        owner_ttl: 60_000_000_000,
        ..Settings::default()
    })
}

fn leg(role: Role) -> u64 {
    match role {
        Role::App => 1,
        Role::Reply => 2,
        Role::Upstream => 3,
    }
}
