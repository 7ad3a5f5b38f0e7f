//! However the records of many sessions interleave, each session gets its own verdict, once. Within a session, an
//! order is any that cause and effect allow; across sessions, any at all.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::RngSeed};
use tracer::{
    core::{Core, Input, Settings},
    event::{End, Event, Interception, Role, Task, What},
    report::Report,
    verdict::{Reason, Verdict},
};

const SECOND: u64 = 1_000_000_000;

/// A kind of session: which is also the proxy it dials, as one listener decides for all connections to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Local404,
    Tunnel,
    Refused,
    Blackholed,
    ConnectFailed,
    ClosedWithoutReply,
    Forwarded,
    Terminated,
    WrappedInTls,
    GivenUp,
}

/// One step of a session, in the order in which it may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The sidecar takes the connection: no record, but what it dials comes later.
    Accept,
    /// It takes it and dials in one go: no listener filter waits for the app's bytes.
    AcceptAndDial,
    Head,
    HeadFirstHalf,
    HeadSecondHalf,
    Dial,
    SameBytes,
    Rewritten,
    Hello,
    UpstreamFails,
    UpstreamEnds,
    Reply(&'static str),
    SidecarCloses,
    AppCloses,
}

use Step::{
    Accept, AcceptAndDial, AppCloses, Dial, Head, HeadFirstHalf, HeadSecondHalf, Hello, Reply, Rewritten,
    SameBytes, SidecarCloses, UpstreamEnds, UpstreamFails,
};

const GRANTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const ENVOY_404: &str =
    "HTTP/1.1 404 Not Found\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const SQUID_403: &str = "HTTP/1.1 403 Forbidden\r\nServer: squid/5.7\r\nContent-Length: 3\r\n\r\n";
const ENVOY_200: &str = "HTTP/1.1 200 OK\r\ndate: x\r\nserver: envoy\r\n\r\n";

impl Kind {
    const ALL: [Self; 10] = [
        Self::Local404,
        Self::Tunnel,
        Self::Refused,
        Self::Blackholed,
        Self::ConnectFailed,
        Self::ClosedWithoutReply,
        Self::Forwarded,
        Self::Terminated,
        Self::WrappedInTls,
        Self::GivenUp,
    ];

    fn expected(self) -> (Verdict, Option<Reason>) {
        match self {
            Self::Local404 => (Verdict::HandledAsHttp, Some(Reason::RouteNotFound)),
            Self::Tunnel => (Verdict::Tunneled, None),
            Self::Refused => (Verdict::RefusedByProxy, None),
            Self::Blackholed => (Verdict::Blackholed, None),
            Self::ConnectFailed => (Verdict::Unreachable, Some(Reason::ConnectFailed)),
            Self::ClosedWithoutReply => (Verdict::Unreachable, Some(Reason::ClosedWithoutReply)),
            Self::Forwarded => (Verdict::HandledAsHttp, Some(Reason::Forwarded)),
            Self::Terminated => (Verdict::HandledAsHttp, Some(Reason::Terminated)),
            Self::WrappedInTls => (Verdict::WrappedInTls, None),
            Self::GivenUp => (Verdict::Unanswered, None),
        }
    }

    /// The orders that cause and effect allow: with whole and split heads, ends in either order; `waits`: with a
    /// listener filter that waits for the app's bytes. Whether it does is the listener's, so all sessions have the same.
    fn orders(self, waits: bool) -> Vec<Vec<Step>> {
        let passed: [&[Step]; 3] = if waits {
            [&[Accept, Head, Dial], &[Head, Accept, Dial], &[Accept, HeadFirstHalf, HeadSecondHalf, Dial]]
        } else {
            [&[AcceptAndDial, Head], &[Head, AcceptAndDial], &[AcceptAndDial, HeadFirstHalf, HeadSecondHalf]]
        };
        // An HTTP listener always waits.
        let parsed: [&[Step]; 3] =
            [&[Accept, Head], &[Head, Accept], &[Accept, HeadFirstHalf, HeadSecondHalf]];
        let (begins, continues): ([&[Step]; 3], &[&[Step]]) = match self {
            Self::Local404 => (
                parsed,
                &[
                    &[Reply(ENVOY_404), SidecarCloses],
                    &[Reply(ENVOY_404), AppCloses, SidecarCloses],
                    &[Reply(ENVOY_404)],
                ],
            ),
            Self::Tunnel => (
                passed,
                &[
                    &[SameBytes, Reply(GRANTED), AppCloses, UpstreamEnds, SidecarCloses],
                    &[SameBytes, Reply(GRANTED), SidecarCloses, UpstreamEnds],
                    &[SameBytes, Reply(GRANTED)],
                ],
            ),
            Self::Refused => (
                passed,
                &[
                    &[SameBytes, Reply(SQUID_403), UpstreamEnds, SidecarCloses],
                    &[SameBytes, UpstreamEnds, Reply(ENVOY_404), SidecarCloses],
                    &[SameBytes, Reply(ENVOY_404), AppCloses, SidecarCloses, UpstreamEnds],
                ],
            ),
            Self::Blackholed if waits => (
                [&[Head], &[HeadFirstHalf, HeadSecondHalf], &[Head]],
                &[&[SidecarCloses], &[SidecarCloses, AppCloses]],
            ),
            Self::Blackholed => (
                [
                    &[Head, SidecarCloses],
                    &[SidecarCloses, Head],
                    &[SidecarCloses, HeadFirstHalf, HeadSecondHalf],
                ],
                &[&[]],
            ),
            Self::ConnectFailed if !waits => (
                [&[AcceptAndDial], &[Head, AcceptAndDial], &[AcceptAndDial, Head]],
                &[&[UpstreamFails, SidecarCloses]],
            ),
            Self::ConnectFailed => (passed, &[&[UpstreamFails, SidecarCloses, AppCloses]]),
            Self::ClosedWithoutReply => (
                passed,
                &[&[SameBytes, UpstreamEnds, SidecarCloses], &[SameBytes, SidecarCloses, UpstreamEnds]],
            ),
            Self::Forwarded => (
                parsed,
                &[
                    &[Dial, Rewritten, Reply(ENVOY_200), AppCloses, SidecarCloses],
                    &[Dial, Rewritten, Reply(SQUID_403), SidecarCloses],
                ],
            ),
            Self::Terminated => (
                parsed,
                &[
                    &[Dial, Reply(ENVOY_200), Hello, UpstreamEnds, SidecarCloses],
                    &[Dial, Reply(ENVOY_200), AppCloses, SidecarCloses, UpstreamEnds],
                ],
            ),
            Self::WrappedInTls => (passed, &[&[Hello, UpstreamEnds, SidecarCloses]]),
            Self::GivenUp => (passed, &[&[SameBytes, AppCloses, SidecarCloses], &[AppCloses, SidecarCloses]]),
        };
        let mut orders = Vec::new();
        for begin in begins {
            for rest in continues {
                let mut order = [begin, rest].concat();
                // The app asks, sooner or later, also of a connection that is closed already.
                if !order.iter().any(|step| matches!(step, Head | HeadFirstHalf)) {
                    order.push(Head);
                }
                orders.push(order);
            }
        }
        orders
    }
}

#[derive(Clone, Debug)]
struct Session {
    number: u64,
    kind: Kind,
    order: Vec<Step>,
    pod: u8,
    thread: u32,
    target: u8,
}

impl Session {
    fn app(&self) -> SocketAddr {
        // Pods have the same loopback addresses, so their apps may have the same ports.
        let port = u16::try_from(40_000 + self.number / 2).expect("few sessions");
        SocketAddr::from(([10, 244, 1, u8::from(self.number.is_multiple_of(2))], port))
    }

    fn proxy(&self) -> SocketAddr {
        let last = Kind::ALL.iter().position(|kind| *kind == self.kind).expect("one of all");
        SocketAddr::from(([10, 0, 0, u8::try_from(last).expect("few kinds")], 3128))
    }

    fn netns(&self) -> u64 {
        u64::from(self.pod) + 1
    }

    fn head(&self) -> String {
        let Self { target, .. } = self;
        format!(
            "CONNECT t{target}.example:443 HTTP/1.1\r\nHost: t{target}.example:443\r\nUser-Agent: x/1\r\n\r\n"
        )
    }

    fn rewritten(&self) -> String {
        let Self { target, .. } = self;
        format!(
            "CONNECT t{target}.example:443 HTTP/1.1\r\nhost: t{target}.example:443\r\nx-request-id: 1\r\n\r\n"
        )
    }

    /// The event of a step at `time`; the sidecar took the connection at `accepted`.
    fn event(&self, step: Step, time: u64, accepted: u64, dialed: u64) -> Option<Event> {
        let sent = |offset: usize, data: &[u8]| What::Sent {
            offset: u32::try_from(offset).expect("short"),
            total: u32::try_from(data.len()).expect("short"),
            data: Bytes::copy_from_slice(data),
        };
        let (head, half) = (self.head(), 11);
        let (role, what) = match step {
            Accept => return None,
            Head => (Role::App, sent(0, head.as_bytes())),
            HeadFirstHalf => (Role::App, sent(0, &head.as_bytes()[..half])),
            HeadSecondHalf => (Role::App, sent(half, &head.as_bytes()[half..])),
            AppCloses => (Role::App, What::Ended(End::ClosedHere)),
            AcceptAndDial | Dial => (Role::Upstream, What::Dialed),
            SameBytes => (Role::Upstream, sent(0, head.as_bytes())),
            Rewritten => (Role::Upstream, sent(0, self.rewritten().as_bytes())),
            Hello => (Role::Upstream, sent(0, b"\x16\x03\x01\x02\x00")),
            UpstreamFails => (Role::Upstream, What::Ended(End::DialFailed)),
            UpstreamEnds => (Role::Upstream, What::Ended(End::ClosedByPeer)),
            Reply(text) => (Role::Reply, sent(0, text.as_bytes())),
            SidecarCloses => (Role::Reply, What::Ended(End::ClosedHere)),
        };
        let sidecar_task = Task { pid: 100, tid: 100 + self.thread, comm: "wrk:worker_0".into(), cgroup: 2 };
        let (leg, opened, local, remote, task) = match role {
            Role::App => {
                let task = Task { pid: 7, tid: 7, comm: "curl".into(), cgroup: 1 };
                (0, 1, self.app(), self.proxy(), task)
            }
            Role::Reply => (1, accepted, SocketAddr::from(([127, 0, 0, 1], 15001)), self.app(), sidecar_task),
            Role::Upstream => (2, dialed, SocketAddr::from(([0, 0, 0, 0], 0)), self.proxy(), sidecar_task),
        };
        Some(Event {
            time,
            flow: self.number * 3 + leg,
            role,
            opened: Some(opened),
            netns: self.netns(),
            sidecar: (role == Role::App).then(|| Interception {
                port: 15001,
                netns: self.netns(),
                client_port: None,
            }),
            task: Some(Task { tid: task.tid + u32::from(self.pod) * 10, ..task }),
            link: None,
            cgroup: 0,
            uid: 0,
            lost: 0,
            local,
            remote,
            what,
        })
    }
}

/// Plays the sessions; `picks` says whose step comes next. Gives each session's reports, by its app's address.
fn play(sessions: &[Session], picks: &[usize]) -> BTreeMap<(u64, SocketAddr), Vec<Report>> {
    let mut core = Core::new(Settings {
        deadline: 10 * SECOND,
        clock_offset: 0,
        inbound_ports: vec![15006],
        capacity: 1000,
        keep: 3600 * SECOND,
        node: None,
        probes: "cgroup".to_owned(),
        naming: 0,
    });
    let mut next: Vec<usize> = vec![0; sessions.len()];
    let mut accepted = vec![0; sessions.len()];
    let mut dialed = vec![0; sessions.len()];
    let mut found: BTreeMap<(u64, SocketAddr), Vec<Report>> = BTreeMap::new();
    let mut picks = picks.iter().cycle();
    let mut time = 1_000;
    loop {
        let open: Vec<usize> =
            (0..sessions.len()).filter(|&at| next[at] < sessions[at].order.len()).collect();
        if open.is_empty() {
            break;
        }
        let at = open[picks.next().expect("a cycle") % open.len()];
        let step = sessions[at].order[next[at]];
        next[at] += 1;
        time += 10;
        match step {
            Accept => accepted[at] = time,
            Dial => dialed[at] = time,
            AcceptAndDial => (accepted[at], dialed[at]) = (time - 1, time),
            // Envoy takes such a connection and closes it in one go.
            SidecarCloses if sessions[at].kind == Kind::Blackholed => accepted[at] = time - 1,
            _ => {}
        }
        if let Some(event) = sessions[at].event(step, time, accepted[at], dialed[at]) {
            let mut reports = Vec::new();
            core.feed(Input::Event(Box::new(event)), &mut reports);
            for report in reports {
                let app = SocketAddr::new(report.source.ip, report.source.port);
                // A report follows from a step of its own session.
                assert_eq!(app, sessions[at].app(), "{step:?} of {:?} gave {report:?}", sessions[at]);
                found.entry((sessions[at].netns(), app)).or_default().push(report);
            }
        }
    }
    let mut late = Vec::new();
    core.feed(Input::Tick(time + 100 * SECOND), &mut late);
    assert!(late.is_empty(), "{late:?}");
    found
}

fn sessions() -> impl Strategy<Value = Vec<Session>> {
    let session = (0..Kind::ALL.len(), 0..2u8, 0..2u32, 0..2u8, any::<prop::sample::Index>());
    (prop::collection::vec(session, 1..14), any::<bool>()).prop_map(|(drawn, waits)| {
        let number = |(number, (kind, pod, thread, target, order)): (
            usize,
            (usize, u8, u32, u8, prop::sample::Index),
        )| {
            let kind = Kind::ALL[kind];
            let mut orders = kind.orders(waits);
            let order = orders.swap_remove(order.index(orders.len()));
            Session { number: u64::try_from(number).expect("few"), kind, order, pod, thread, target }
        };
        drawn.into_iter().enumerate().map(number).collect()
    })
}

/// What may come out otherwise, because it cannot be told from what is seen; then nobody is blamed.
fn not_blamed(session: &Session, all: &[Session]) -> Option<(Verdict, Option<Reason>)> {
    let beside = |other: &&Session| other.number != session.number && other.pod == session.pod;
    match session.kind {
        // While a sidecar's thread begins TLS, its answer on another connection may have come through that.
        Kind::Local404 => all
            .iter()
            .filter(beside)
            .any(|other| other.thread == session.thread && other.order.contains(&Hello))
            .then_some((Verdict::RefusedByProxy, None)),
        // Which of many sockets to one proxy, silent until their CONNECT is granted, is whose shows only when they
        // speak: among several at once, one grant may look as if it had come through another's socket.
        Kind::Terminated => {
            (all.iter().filter(beside).filter(|other| other.kind == Kind::Terminated).count() > 1)
                .then_some((Verdict::Tunneled, None))
        }
        _ => None,
    }
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let explores = |name: &str| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if explores("PROPTEST_CASES") { default.cases } else { 4_000 },
        rng_seed: if explores("PROPTEST_RNG_SEED") { default.rng_seed } else { RngSeed::Fixed(1) },
        ..default
    }
}

proptest! {
    // The same interleavings each time; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` go exploring.
    #![proptest_config(config())]

    #[test]
    fn no_interleaving_changes_a_verdict(
        sessions in sessions(),
        picks in prop::collection::vec(0..1000usize, 1..150),
    ) {
        let found = play(&sessions, &picks);
        for session in &sessions {
            let reports = found.get(&(session.netns(), session.app())).map_or(&[][..], Vec::as_slice);
            let verdicts: Vec<_> = reports.iter().map(|report| (report.verdict, report.reason)).collect();
            if not_blamed(session, &sessions).is_none_or(|verdict| verdicts != [verdict]) {
                prop_assert_eq!(verdicts, vec![session.kind.expected()], "{:?}", session);
            }
        }
    }
}
