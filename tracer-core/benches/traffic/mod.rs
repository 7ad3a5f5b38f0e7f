//! The benches' input: a recording, played many times under different addresses, and sessions of a busy node that begin and
//! end on demand.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, EventKind, Interception, Role, Task},
};

/// The pods of a node, each with a network namespace and a sidecar of two threads.
const PODS: u64 = 250;
const TARGETS: u64 = 5_000;
/// A million events a second.
const STEP: u64 = 1_000;

/// An engine with room for `sessions`.
pub fn core(sessions: usize) -> Engine {
    Engine::new(Settings {
        clock_offset: 1_795_175_115_123_456_000,
        capacity: sessions.saturating_mul(2).max(Settings::DEFAULT_CAPACITY),
        node: Some("node-1".to_owned()),
        ..Settings::default()
    })
}

/// The events of the demo's recording, `times` times, each time with different flows, addresses and times.
#[expect(clippy::disallowed_types, reason = "the crate is pure, its benchmark reads a recording")]
pub fn recorded(times: u64) -> Vec<Input> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces/gotcha.jsonl");
    let file = std::fs::File::open(&path).expect("the recording");
    let lines = BufReader::new(file).lines().skip(1).map(|line| line.expect("a line"));
    let inputs = lines.map(|line| serde_json::from_str::<Input>(&line).expect("an input"));
    let events: Vec<Event> = inputs
        .filter_map(|input| match input {
            Input::Event(event) => Some(event),
            Input::Tick(_) | Input::Fact(..) => None,
        })
        .collect();
    let first = events.first().expect("an event").time;
    let lasts = events.last().expect("an event").time - first + 1;
    let again = |nth: u64, event: &Event| {
        let mut event = event.clone();
        event.flow += nth << 20;
        event.time += nth * lasts;
        event.opened = event.opened.map(|opened| opened + nth * lasts);
        event.netns = nth % PODS + 1;
        for address in [&mut event.local, &mut event.remote] {
            if address.ip() == IpAddr::from([10, 244, 1, 5]) {
                address.set_ip(pod(nth));
            }
        }
        if let Some(sidecar) = &mut event.sidecar {
            sidecar.netns = nth % PODS + 1;
        }
        Input::Event(event)
    };
    (0..times).flat_map(|nth| events.iter().map(move |event| again(nth, event))).collect()
}

fn pod(number: u64) -> IpAddr {
    let [.., high, middle, low] = number.to_be_bytes();
    IpAddr::from([10, high, middle, low])
}

/// Live sessions: granted tunnels, and one in ten that waits for its answer.
pub struct Node {
    time: u64,
    next: u64,
    alive: Vec<u64>,
    random: u64,
}

impl Node {
    /// No live session.
    pub fn new() -> Self {
        Self { time: 3_600_000_000_000, next: 1, alive: Vec::new(), random: 1 }
    }

    /// Begins a session.
    pub fn begin(&mut self, inputs: &mut Vec<Input>) {
        let number = self.next;
        self.next += 1;
        self.alive.push(number);
        let target = format!("t{}.example:443", number % TARGETS);
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: curl/8.5.0\r\n\r\n");
        let sent = |bytes: &str| EventKind::Sent {
            offset: 0,
            total: u32::try_from(bytes.len()).expect("short"),
            data: bytes.as_bytes().into(),
        };
        inputs.push(self.event(number, Role::App, sent(&head)));
        inputs.push(self.event(number, Role::Upstream, EventKind::Dialed));
        inputs.push(self.event(number, Role::Upstream, sent(&head)));
        if !number.is_multiple_of(10) {
            let granted = "HTTP/1.1 200 Connection established\r\n\r\n";
            inputs.push(self.event(number, Role::Reply, sent(granted)));
        }
    }

    /// Ends a random live session.
    pub fn end(&mut self, inputs: &mut Vec<Input>) {
        // https://en.wikipedia.org/wiki/Linear_congruential_generator, Knuth's numbers
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let which = (self.random >> 33) % self.alive.len() as u64;
        let number = self.alive.swap_remove(usize::try_from(which).expect("an index"));
        if number.is_multiple_of(10) {
            let refused = "HTTP/1.1 403 Forbidden\r\nServer: squid\r\nContent-Length: 0\r\n\r\n";
            let kind = EventKind::Sent {
                offset: 0,
                total: u32::try_from(refused.len()).expect("short"),
                data: refused.as_bytes().into(),
            };
            inputs.push(self.event(number, Role::Reply, kind));
        }
        inputs.push(self.event(number, Role::App, EventKind::Ended(End::ClosedHere)));
        inputs.push(self.event(number, Role::Upstream, EventKind::Ended(End::ClosedHere)));
        inputs.push(self.event(number, Role::Reply, EventKind::Ended(End::ClosedByPeer)));
    }

    fn event(&mut self, number: u64, role: Role, kind: EventKind) -> Input {
        self.time += STEP;
        let netns = number % PODS + 1;
        let [.., high, low] = netns.to_be_bytes();
        // A pod's apps reuse ports that are free.
        let port = u16::try_from(1024 + number / PODS % 64_000).expect("a port");
        let app = SocketAddr::from(([10, 244, high, low], port));
        let proxy = SocketAddr::from(([10, 0, 0, u8::try_from(number % 4).expect("small")], 3128));
        let pid = u32::try_from(netns * 10).expect("small");
        let task = |tid, comm: &str| Task { pid, tid, comm: comm.into(), cgroup: netns };
        let worker = || task(pid + u32::try_from(number % 2).expect("small"), "wrk:worker_0");
        let link = match role {
            Role::App => None,
            Role::Reply => Some(number * 3 + 2),
            Role::Upstream => Some(number * 3 + 1),
        };
        let (leg, local, remote, task) = match role {
            Role::App => (0, app, proxy, task(pid + 5, "curl")),
            Role::Reply => (1, SocketAddr::from(([127, 0, 0, 1], 15001)), app, worker()),
            Role::Upstream => (2, app, proxy, worker()),
        };
        Input::Event(Event {
            opened: Some(self.time - 100),
            netns,
            sidecar: (role == Role::App).then_some(Interception { port: 15001, netns, client_port: None }),
            task: Some(task),
            uid: 1000,
            link,
            ..Event::new(self.time, number * 3 + leg, role, local, remote, kind)
        })
    }
}
