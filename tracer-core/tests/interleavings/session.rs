//! One session: its kind, the possible orders of its steps, and the kernel events of each.

use std::net::SocketAddr;

use tracer_core::{
    event::{End, Event, EventKind, Interception, Role, Task},
    verdict::{Reason, Verdict},
};

/// A kind of session. Each kind dials a proxy of its own, since one listener decides on all connections to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
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
    /// The answer comes through a connection that the sidecar shares between sessions.
    Pooled,
    /// The proxy closes, and the sidecar learns it through a connection that it shares between sessions.
    PooledClosed,
    /// The sidecar closes because a dial failed that it had begun for an earlier connection.
    SharedFailure,
    /// The proxy speaks TLS, as one in the mesh does, and closes.
    MeshClosed,
    /// A connection on which the app itself speaks TLS, to the proxy of another kind. It has no request.
    OwnTls,
}

/// One step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The sidecar accepts the connection. There is no record of it; its dial comes later.
    Accept,
    /// The sidecar accepts and dials in one callback: no listener filter waits for the app's bytes.
    AcceptAndDial,
    Head,
    HeadFirstHalf,
    HeadSecondHalf,
    Dial,
    SameBytes,
    Rewritten,
    Hello,
    /// TLS goes on: the peer speaks it.
    SecondFlight,
    UpstreamFails,
    UpstreamEnds,
    /// An upstream that the sidecar's thread had dialed for a connection of which nothing else is known.
    OthersDial,
    OthersDialFails,
    /// The sidecar received something on a shared connection before.
    SharedReply(&'static str),
    SharedEnd,
    Reply(&'static str),
    SidecarCloses,
    AppCloses,
}

pub(crate) use Step::{
    Accept, AcceptAndDial, AppCloses, Dial, Head, HeadFirstHalf, HeadSecondHalf, Hello, OthersDial,
    OthersDialFails, Reply, Rewritten, SameBytes, SecondFlight, SharedEnd, SharedReply, SidecarCloses,
    UpstreamEnds, UpstreamFails,
};

const GRANTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const ENVOY_404: &str =
    "HTTP/1.1 404 Not Found\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const SQUID_403: &str = "HTTP/1.1 403 Forbidden\r\nServer: squid/5.7\r\nContent-Length: 3\r\n\r\n";
const ENVOY_200: &str = "HTTP/1.1 200 OK\r\ndate: x\r\nserver: envoy\r\n\r\n";

impl Kind {
    pub(crate) const ALL: [Self; 15] = [
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
        Self::Pooled,
        Self::PooledClosed,
        Self::SharedFailure,
        Self::MeshClosed,
        Self::OwnTls,
    ];

    /// `None`: no report.
    pub(crate) fn expected(self) -> Option<(Verdict, Option<Reason>)> {
        Some(match self {
            Self::Local404 => (Verdict::HandledAsHttp, Some(Reason::RouteNotFound)),
            Self::Tunnel => (Verdict::Tunneled, None),
            Self::Refused => (Verdict::RefusedByProxy, None),
            Self::Blackholed => (Verdict::Blackholed, None),
            Self::ConnectFailed => (Verdict::Unreachable, Some(Reason::ConnectFailed)),
            Self::ClosedWithoutReply | Self::MeshClosed => {
                (Verdict::Unreachable, Some(Reason::ClosedWithoutReply))
            }
            Self::Forwarded => (Verdict::HandledAsHttp, Some(Reason::Forwarded)),
            Self::Terminated => (Verdict::HandledAsHttp, Some(Reason::Terminated)),
            Self::WrappedInTls => (Verdict::WrappedInTls, None),
            Self::GivenUp => (Verdict::Unanswered, Some(Reason::GaveUp)),
            Self::Pooled | Self::PooledClosed => (Verdict::Undetermined, Some(Reason::SharedUpstream)),
            Self::SharedFailure => (Verdict::Undetermined, Some(Reason::LegNotSeen)),
            Self::OwnTls => return None,
        })
    }

    /// The orders that cause and effect allow: with complete and split heads, and ends in either order. `waits`: a listener
    /// filter waits for the app's bytes; this is the same for all sessions of a listener.
    pub(crate) fn orders(self, waits: bool) -> Vec<Vec<Step>> {
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
            Self::Pooled => (parsed, &[&[SharedReply(ENVOY_404), SidecarCloses], &[SharedReply(SQUID_403)]]),
            Self::PooledClosed => (parsed, &[&[SharedEnd]]),
            Self::SharedFailure => (
                [&[OthersDial, Accept, Head], &[Accept, OthersDial, Head], &[OthersDial, Head, Accept]],
                &[&[OthersDialFails, SidecarCloses]],
            ),
            Self::MeshClosed => (passed, &[&[Hello, SecondFlight, UpstreamEnds, SidecarCloses]]),
            Self::OwnTls => (
                [&[Accept], &[Accept], &[Accept]],
                &[&[OthersDial, Hello, UpstreamEnds], &[OthersDial, Hello]],
            ),
            Self::GivenUp => (passed, &[&[SameBytes, AppCloses, SidecarCloses], &[AppCloses, SidecarCloses]]),
        };
        let mut orders = Vec::new();
        for begin in begins {
            for rest in continues {
                let mut order = [begin, rest].concat();
                // The app sends its request even if the connection was closed already.
                if self != Self::OwnTls && !order.iter().any(|step| matches!(step, Head | HeadFirstHalf)) {
                    order.push(Head);
                }
                orders.push(order);
            }
        }
        orders
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) order: Vec<Step>,
    pub(crate) pod: u8,
    pub(crate) thread: u32,
    pub(crate) target: u8,
    /// The sidecar's listener waits for the app's bytes.
    pub(crate) waits: bool,
}

/// When a session's sockets were made, and their links.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) accepted: u64,
    pub(crate) dialed: u64,
    /// The app's leg knows the accepted socket.
    pub(crate) is_known: bool,
    /// The socket that the thread was seen to dial for the accepted one.
    pub(crate) reply_link: Option<u64>,
    /// The accepted socket that the thread was seen to dial this one for.
    pub(crate) upstream_link: Option<u64>,
}

impl Session {
    pub(crate) fn app(&self) -> SocketAddr {
        // Pods share loopback addresses, so their apps may have the same ports.
        let port = u16::try_from(40_000 + self.number / 2).expect("few sessions");
        SocketAddr::from(([10, 244, 1, u8::from(self.number.is_multiple_of(2))], port))
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        let kinds = Kind::ALL.iter().filter(|kind| kind.expected().is_some()).count();
        // The app's own TLS goes to the address of any other kind.
        let own_tls = Kind::ALL[usize::from(self.target) * 7 % kinds];
        let kind = if self.kind == Kind::OwnTls { own_tls } else { self.kind };
        let last = Kind::ALL.iter().position(|other| *other == kind).expect("one of all");
        SocketAddr::from(([10, 0, 0, u8::try_from(last).expect("few kinds")], 3128))
    }

    pub(crate) fn netns(&self) -> u64 {
        u64::from(self.pod) + 1
    }

    pub(crate) fn head(&self) -> String {
        let Self { target, .. } = self;
        format!(
            "CONNECT t{target}.example:443 HTTP/1.1\r\nHost: t{target}.example:443\r\nUser-Agent: x/1\r\n\r\n"
        )
    }

    pub(crate) fn rewritten(&self) -> String {
        let Self { target, .. } = self;
        format!(
            "CONNECT t{target}.example:443 HTTP/1.1\r\nhost: t{target}.example:443\r\nx-request-id: 1\r\n\r\n"
        )
    }

    /// Its flows: the app's, the sidecar's accepted socket, the sidecar's upstream socket.
    pub(crate) fn flow(&self, leg: u64) -> u64 {
        self.number * 4 + leg + 1
    }

    /// The address behind the one that its app dials.
    fn endpoint() -> SocketAddr {
        SocketAddr::from(([10, 244, 9, 9], 3128))
    }

    /// Whether an HTTP listener takes the connection. It dials for a request, not for a connection.
    pub(crate) fn is_http(&self) -> bool {
        matches!(
            self.kind,
            Kind::Local404 | Kind::Forwarded | Kind::Terminated | Kind::Pooled | Kind::PooledClosed
        )
    }

    /// The event of a step at `time`, when `lost` records were lost.
    pub(crate) fn event(&self, step: Step, time: u64, sockets: &Sockets, lost: u32) -> Option<Event> {
        let sent = |offset: usize, data: &[u8]| EventKind::Sent {
            offset: u32::try_from(offset).expect("short"),
            total: u32::try_from(data.len()).expect("short"),
            data: data.into(),
        };
        let (head, half) = (self.head(), 11);
        let (role, kind) = match step {
            Accept => return None,
            Head => (Role::App, sent(0, head.as_bytes())),
            HeadFirstHalf => (Role::App, sent(0, &head.as_bytes()[..half])),
            HeadSecondHalf => (Role::App, sent(half, &head.as_bytes()[half..])),
            AppCloses => (Role::App, EventKind::Ended(End::ClosedHere)),
            AcceptAndDial | Dial | OthersDial => (Role::Upstream, EventKind::Dialed),
            SameBytes => (Role::Upstream, sent(0, head.as_bytes())),
            Rewritten => (Role::Upstream, sent(0, self.rewritten().as_bytes())),
            Hello => (Role::Upstream, sent(0, b"\x16\x03\x01\x02\x00")),
            SecondFlight => (Role::Upstream, sent(5, b"\x14\x03\x03\x00\x01")),
            UpstreamFails | OthersDialFails => (Role::Upstream, EventKind::Ended(End::DialFailed)),
            UpstreamEnds => (Role::Upstream, EventKind::Ended(End::ClosedByPeer)),
            Reply(text) | SharedReply(text) => (Role::Reply, sent(0, text.as_bytes())),
            SidecarCloses | SharedEnd => (Role::Reply, EventKind::Ended(End::ClosedHere)),
        };
        let sidecar_task = Task { pid: 100, tid: 100 + self.thread, comm: "wrk:worker_0".into(), cgroup: 2 };
        let (leg, opened, link, local, remote, task) = match role {
            Role::App => {
                let task = Task { pid: 7, tid: 7, comm: "curl".into(), cgroup: 1 };
                let link = sockets.is_known.then(|| self.flow(1));
                (0, 1, link, self.app(), self.proxy(), task)
            }
            Role::Reply => {
                let own = SocketAddr::from(([127, 0, 0, 1], 15001));
                (1, sockets.accepted, sockets.reply_link, own, self.app(), sidecar_task)
            }
            Role::Upstream => {
                let own = SocketAddr::from(([0, 0, 0, 0], 0));
                // Of a pooled failure, only the endpoint is known, and for which accepted socket it was dialed.
                let is_others = matches!(self.kind, Kind::SharedFailure | Kind::OwnTls);
                let link =
                    if is_others { sockets.is_known.then_some(self.flow(3)) } else { sockets.upstream_link };
                let to = if self.kind == Kind::SharedFailure { Self::endpoint() } else { self.proxy() };
                (2, sockets.dialed, link, own, to, sidecar_task)
            }
        };
        Some(Event {
            opened: Some(opened),
            netns: self.netns(),
            sidecar: (role == Role::App).then(|| Interception {
                port: 15001,
                netns: self.netns(),
                client_port: None,
            }),
            task: Some(Task { tid: task.tid + u32::from(self.pod) * 10, ..task }),
            link,
            lost,
            shared_upstream: matches!(step, SharedReply(_) | SharedEnd),
            set_up: (sockets.is_known && matches!(step, SidecarCloses | SharedEnd))
                .then_some(self.kind != Kind::Blackholed),
            ..Event::new(time, self.flow(leg), role, local, remote, kind)
        })
    }
}
