//! A sequence of events as bytes, for the target `engine` and its seeds: what a fuzzer changes is always a sequence of events.

use std::net::SocketAddr;

use tracer_core::{
    engine::{Engine, Settings},
    event::{End, Event, EventKind, Interception, Role, Task},
};

/// The bytes of a step, before its payload.
const HEADER: usize = 8;
/// The nanoseconds of one unit of time.
const TIME_UNIT: u64 = 50_000_000;

/// Events of a small number of pods, flows and addresses, so that they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the previous step, in units of 50 ms.
    pub time: u8,
    /// Role, kind of event and way of ending.
    pub what: u8,
    /// The flow.
    pub flow: u8,
    /// The other flow; 0: none.
    pub link: u8,
    /// The app's address and the network namespace.
    pub pod: u8,
    /// The proxy's address.
    pub proxy: u8,
    /// Bytes that were lost before the payload, and records that were lost.
    pub lost: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Step {
    /// Appends it to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let Self { time, what, flow, link, pod, proxy, lost, payload } = self;
        let payload = &payload[..payload.len().min(255)];
        to.extend([*time, *what, *flow, *link, *pod, *proxy, *lost, payload.len() as u8]);
        to.extend(payload);
    }

    /// All steps that these bytes hold.
    pub fn decode_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut steps = Vec::new();
        while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
            let &[time, what, flow, link, pod, proxy, lost, length] = header else { break };
            let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
            steps.push(Self { time, what, flow, link, pod, proxy, lost, payload: payload.to_vec() });
            bytes = rest;
        }
        steps
    }
}

/// Where each flow is, so that payloads are contiguous unless a step says otherwise.
pub struct Events {
    time: u64,
    lost: u32,
    offsets: [u32; 256],
}

impl Default for Events {
    fn default() -> Self {
        Self { time: 1_000_000_000, lost: 0, offsets: [0; 256] }
    }
}

impl Events {
    /// The event of a step; `None`: only time passes.
    pub fn next(&mut self, step: &Step) -> (u64, Option<Event>) {
        self.time += u64::from(step.time) * TIME_UNIT;
        let role = match step.what & 3 {
            0 => Role::App,
            1 => Role::Reply,
            2 => Role::Upstream,
            _ => return (self.time, None),
        };
        let kind = match (step.what >> 2) & 7 {
            0 => EventKind::Dialed,
            1 => EventKind::Ended(End::DialFailed),
            2 => EventKind::Ended(End::ClosedHere),
            3 => EventKind::Ended(End::ClosedByPeer),
            4 => EventKind::Ended(End::Reset),
            _ => {
                let at = &mut self.offsets[usize::from(step.flow)];
                *at = at.wrapping_add(u32::from(step.lost & 15));
                let offset = *at;
                // More was sent than was captured.
                let total = step.payload.len() as u32 + u32::from(step.lost >> 4) * 100;
                *at = at.wrapping_add(total);
                EventKind::Sent { offset, total, data: step.payload[..].into() }
            }
        };
        self.lost += u32::from(step.lost == 255);
        let app = SocketAddr::from(([10, 1, 0, step.pod & 7], 40_000 + u16::from(step.flow / 3)));
        let proxy = SocketAddr::from(([10, 0, 0, 1 + (step.proxy & 3)], 3128));
        let (local, remote) = match role {
            Role::App | Role::Upstream => (app, proxy),
            Role::Reply => (SocketAddr::from(([127, 0, 0, 1], 15001)), app),
        };
        let netns = u64::from(step.pod & 7);
        let has_sidecar = role == Role::App && step.pod & 128 == 0;
        let event = Event {
            opened: (step.pod & 64 == 0).then_some(self.time),
            netns,
            sidecar: has_sidecar.then_some(Interception { port: 15001, netns, client_port: None }),
            task: (step.pod & 32 == 0).then(|| Task {
                pid: u32::from(step.pod) + 1,
                tid: u32::from(step.pod) + 1,
                comm: "task".into(),
                cgroup: netns,
            }),
            link: (step.link != 0).then_some(u64::from(step.link)),
            uid: 1000,
            lost: self.lost,
            answered: step.proxy & 128 != 0,
            shared_upstream: step.proxy & 64 != 0,
            set_up: [None, Some(true), Some(false)][usize::from(step.proxy & 3) % 3],
            ..Event::new(self.time, u64::from(step.flow), role, local, remote, kind)
        };
        (self.time, Some(event))
    }
}

/// An engine with small bounds, so that a short sequence reaches them.
pub fn engine() -> Engine {
    Engine::new(Settings {
        deadline: 2_000_000_000,
        capacity: 16,
        keep: 10_000_000_000,
        owner_wait: 1_000_000_000,
        owner_ttl: 1_000_000_000,
        ..Settings::default()
    })
}
