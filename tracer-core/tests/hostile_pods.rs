//! What one pod sends costs no other pod its report and takes bounded memory and time. A counting allocator measures the
//! memory, so this is the only test of its process that allocates much.

#![expect(clippy::disallowed_types, reason = "the crate is pure, its test measures how long an input takes")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tracer_core::{
    engine::{Engine, Input, Settings},
    event::{End, Event, EventKind, Interception, Role, Task},
    redact::Redactor,
    report::Reports,
    verdict::Verdict,
};

const SECOND: u64 = 1_000_000_000;
/// The agent's limit is 256 MiB, of which the ring, the runtime and the process itself take a part.
const MEMORY: usize = 160 << 20;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Tests share the counters.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: every call is passed on to the system's allocator with its own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOSTILE: u64 = 66;
const VICTIM: u64 = 7;

fn engine() -> Engine {
    Engine::new(Settings::default())
}

fn event(pod: u64, flow: u64, role: Role, time: u64, kind: EventKind) -> Event {
    let [.., high, low] = flow.to_be_bytes();
    let app = SocketAddr::from(([10, u8::try_from(pod).expect("small"), high, low], 40_000));
    let proxy = SocketAddr::from(([10, 0, 0, 1], 3128));
    let (local, remote) = match role {
        Role::App | Role::Upstream => (app, proxy),
        Role::Reply => (SocketAddr::from(([127, 0, 0, 1], 15001)), app),
    };
    Event {
        opened: Some(time),
        netns: pod,
        sidecar: (role == Role::App).then_some(Interception { port: 15001, netns: pod, client_port: None }),
        task: Some(Task { pid: 1, tid: u32::try_from(pod).expect("small"), comm: "app".into(), cgroup: pod }),
        uid: 1000,
        ..Event::new(time, flow * 4 + role as u64, role, local, remote, kind)
    }
}

fn sent(offset: usize, text: &str) -> EventKind {
    let length = |length: usize| u32::try_from(length).expect("short");
    EventKind::Sent { offset: length(offset), total: length(text.len()), data: text.as_bytes().into() }
}

/// An agent, as far as memory goes: reports are dropped as soon as they are made.
struct Agent {
    redactor: Redactor,
    engine: Engine,
    reports: Reports,
    of_victim: Vec<(Verdict, String)>,
    longest: Duration,
}

impl Agent {
    fn new() -> Self {
        PEAK.store(HELD.load(Ordering::Relaxed), Ordering::Relaxed);
        let (redactor, engine) = (Redactor::default(), engine());
        Self { redactor, engine, reports: Vec::new(), of_victim: Vec::new(), longest: Duration::ZERO }
    }

    fn feed(&mut self, mut input: Input) {
        let start = Instant::now();
        if let Input::Event(event) = &mut input {
            self.redactor.redact(event);
        }
        self.engine.feed(input, &mut self.reports);
        self.longest = self.longest.max(start.elapsed());
        for report in self.reports.drain(..) {
            if report.connect.authority.starts_with("victim") {
                self.of_victim.push((report.verdict, report.connect.authority.to_string()));
            }
        }
    }

    fn tick(&mut self, time: u64) {
        self.feed(Input::Tick(time));
        while self.engine.is_behind() {
            self.feed(Input::Tick(time));
        }
    }

    /// A session of the victim, whose sidecar passes the request on and the proxy refuses it.
    fn victim_begins(&mut self, nth: u64, time: u64) {
        let head = format!("CONNECT victim{nth}.example:443 HTTP/1.1\r\n\r\n");
        let flow = 1_000_000 + nth;
        self.feed(Input::Event(event(VICTIM, flow, Role::App, time, sent(0, &head))));
        self.feed(Input::Event(event(VICTIM, flow, Role::Upstream, time, EventKind::Dialed)));
        self.feed(Input::Event(event(VICTIM, flow, Role::Upstream, time, sent(0, &head))));
    }

    fn victim_ends(&mut self, nth: u64, time: u64) {
        let reply = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        let flow = 1_000_000 + nth;
        let mut answer = event(VICTIM, flow, Role::Reply, time, sent(0, reply));
        answer.opened = Some(time - 1);
        self.feed(Input::Event(answer));
        self.feed(Input::Event(event(VICTIM, flow, Role::Reply, time, EventKind::Ended(End::ClosedHere))));
    }

    fn assert_bounded(&self, before: usize) {
        let peak = PEAK.load(Ordering::Relaxed) - before;
        assert!(peak < MEMORY, "{} MiB at the peak, {:?}", peak >> 20, self.engine.stats());
    }
}

fn sessions_of_the_victim_are_right(agent: &Agent, count: usize) {
    assert_eq!(agent.of_victim.len(), count);
    for (verdict, authority) in &agent.of_victim {
        assert_eq!(*verdict, Verdict::RefusedByProxy, "{authority}");
    }
}

/// Was out of memory within 14 s, and one tick took 18.5 s.
#[test]
fn pipelined_requests_without_answers_take_bounded_memory_and_time_and_cost_no_other_pod_its_report() {
    let _alone = ALONE.lock();
    let before = HELD.load(Ordering::Relaxed);
    let mut agent = Agent::new();
    let requests = "CONNECT hostile.example:443 HTTP/1.1\r\n\r\n".repeat(12);
    let mut time = SECOND;
    for nth in 0..200 {
        agent.victim_begins(nth, time);
    }
    for round in 0..2_944 / 12 {
        for flow in 0..400 {
            time += 1_000;
            let sent = sent(round * requests.len(), &requests);
            agent.feed(Input::Event(event(HOSTILE, flow, Role::App, time, sent)));
        }
    }
    for nth in 0..200 {
        agent.victim_ends(nth, time);
    }
    sessions_of_the_victim_are_right(&agent, 200);
    let stats = agent.engine.stats();
    assert!(stats.pending <= 400 * 64, "{stats:?}");
    assert!(stats.untracked > 0, "what is not tracked is counted: {stats:?}");
    let start = Instant::now();
    agent.tick(time + 20 * SECOND);
    assert!(start.elapsed() < Duration::from_secs(5), "all deadlines passed: {:?}", start.elapsed());
    assert!(agent.longest < Duration::from_secs(1), "one input: {:?}", agent.longest);
    agent.assert_bounded(before);
}

#[test]
fn connections_of_one_pod_displace_only_its_own() {
    let _alone = ALONE.lock();
    let before = HELD.load(Ordering::Relaxed);
    let mut agent = Agent::new();
    for nth in 0..200 {
        agent.victim_begins(nth, SECOND);
    }
    let long = format!("CONNECT {}.example:443 HTTP/1.1\r\nX: {}\r\n", "h".repeat(200), "x".repeat(250));
    for flow in 0..200_000 {
        let time = SECOND + flow * 10_000;
        agent.feed(Input::Event(event(HOSTILE, flow, Role::App, time, sent(0, &long))));
        // A dial of the pod's sidecar that belongs to nothing.
        agent.feed(Input::Event(event(HOSTILE, flow, Role::Upstream, time, EventKind::Dialed)));
    }
    let stats = agent.engine.stats();
    assert!(stats.dropped > 100_000 && stats.upstreams <= Settings::DEFAULT_CAPACITY + 1, "{stats:?}");
    for nth in 0..200 {
        agent.victim_ends(nth, 5 * SECOND);
    }
    sessions_of_the_victim_are_right(&agent, 200);
    agent.assert_bounded(before);
}
