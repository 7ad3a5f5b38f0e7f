//! The pure core: takes what the kernel saw, in order, and gives back a report for each request, exactly once. It
//! does no IO, has no clock (time arrives inside the input), and never fails.

mod tables;

use crate::{
    event::{End, Event, Role, What},
    head::Form,
    report::{self, Report},
    session::{Asked, Connection, carried, is_envoys_own, request_line},
    verdict::{Carried, Evidence, Outcome, Verdict, judge},
};
use tables::Tables;

/// What reaches the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The kernel saw something.
    Event(Box<Event>),
    /// Time passes; `CLOCK_MONOTONIC`, ns.
    Tick(u64),
}

/// How the core is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a request may wait for its answer, in ns.
    pub deadline: u64,
    /// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`, in ns.
    pub clock_offset: u64,
    /// The ports on which a sidecar accepts what comes from outside its pod.
    pub inbound_ports: Vec<u16>,
    /// How many connections, and how many upstream sockets, are kept at most.
    pub capacity: usize,
    /// How long a connection is remembered whose end is not seen, in ns.
    pub keep: u64,
    /// The node's name, for reports.
    pub node: Option<String>,
    /// The family of probes, for reports.
    pub probes: String,
}

/// What the core holds, and what it had to give up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are followed.
    pub connections: usize,
    /// Requests that wait for an answer.
    pub pending: usize,
    /// Upstream sockets that are known.
    pub upstreams: usize,
    /// Connections that were dropped, oldest first, because there were too many.
    pub dropped: u64,
}

/// The core.
pub struct Core {
    settings: Settings,
    tables: Tables,
    /// How many records the node had lost by the latest event.
    lost: u32,
}

impl Core {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self { tables: Tables::default(), settings, lost: 0 }
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        self.tables.stats()
    }

    /// Takes one input; puts the reports that follow from it into `reports`.
    pub fn feed(&mut self, input: Input, reports: &mut Vec<Report>) {
        match input {
            Input::Tick(time) => self.pass(time, reports),
            Input::Event(event) => {
                self.pass(event.time, reports);
                self.lost = event.lost;
                match event.role {
                    Role::App => self.app(&event, reports),
                    Role::Reply => self.reply(&event, reports),
                    Role::Upstream => self.upstream(&event),
                }
            }
        }
    }

    /// Reports the requests whose deadline has passed, and forgets what is old.
    fn pass(&mut self, time: u64, reports: &mut Vec<Report>) {
        let asked_before = time.saturating_sub(self.settings.deadline);
        while let Some(flow) = self.tables.pop_waiting(asked_before) {
            let Some(connection) = self.tables.connection(flow) else { continue };
            for nth in 0..connection.pending.len() {
                let Some(asked) = self.tables.connection(flow).and_then(|c| c.pending.get(nth)) else {
                    break;
                };
                if !asked.reported && asked.time <= asked_before {
                    // An answer whose head never became whole is one all the same.
                    let outcome = (nth == 0).then(|| self.answer(flow, true)).flatten();
                    self.report(flow, nth, outcome.unwrap_or(Outcome::Pending), time, reports);
                }
            }
        }
        let kept_after = time.saturating_sub(self.settings.keep);
        self.tables.expire(asked_before, kept_after, self.settings.capacity);
    }

    /// The app's leg.
    fn app(&mut self, event: &Event, reports: &mut Vec<Report>) {
        match &event.what {
            What::Dialed => {}
            What::Ended(_) => {
                let gone = self.tables.connection_mut(event.flow).is_some_and(|connection| {
                    connection.app_closed = true;
                    connection.sidecar.is_none()
                });
                if gone {
                    self.settle_direct(event.flow, event, true, reports);
                    self.tables.remove_connection(event.flow);
                }
            }
            What::Sent { offset, total, data } => {
                let connection = self.tables.connection_or_new(event);
                let added = connection.app_sent(event, *offset, *total, data);
                if connection.is_idle() {
                    self.tables.remove_connection(event.flow);
                } else if connection.sidecar.is_none() {
                    self.settle_direct(event.flow, event, false, reports);
                } else if added > 0 {
                    self.tables.wait(event.flow, event.time, added);
                    // A sidecar that does not want the connection closes it before the app has sent a byte.
                    if let Some(end) = self.tables.take_early_end(event.flow) {
                        self.reply(&end, reports);
                    }
                }
            }
        }
    }

    /// Without a sidecar there is nothing to wait for but the rest of the head.
    fn settle_direct(&mut self, flow: u64, event: &Event, at_last: bool, reports: &mut Vec<Report>) {
        while let Some(asked) = self.tables.connection(flow).and_then(|connection| connection.pending.front())
        {
            if !asked.complete && !at_last {
                self.tables.wait(flow, event.time, 0);
                return;
            }
            if !asked.reported {
                self.report(flow, 0, Outcome::Pending, event.time, reports);
            }
            if let Some(connection) = self.tables.connection_mut(flow) {
                connection.settle();
                // Granted or not, the answer cannot be seen from here.
            }
        }
    }

    /// The leg on which the sidecar answers.
    fn reply(&mut self, event: &Event, reports: &mut Vec<Report>) {
        let Some(flow) = self.tables.by_peer(event.netns, event.remote) else {
            if matches!(event.what, What::Ended(_)) {
                self.tables.keep_early_end(event);
            }
            return;
        };
        if let (Some(connection), Some(task)) = (self.tables.connection_mut(flow), &event.task) {
            connection.acceptor = Some(task.clone());
        }
        match &event.what {
            What::Dialed => {}
            What::Ended(_) => self.reply_ended(flow, event, reports),
            What::Sent { offset, total, data } => {
                if let Some(connection) = self.tables.connection_mut(flow) {
                    connection.sidecar_sent(*offset, *total, data);
                }
                if let Some(outcome) = self.answer(flow, false) {
                    self.replied(flow, outcome, event, reports);
                }
            }
        }
    }

    /// The answer to a connection's oldest request, if it is there.
    fn answer(&self, flow: u64, at_last: bool) -> Option<Outcome> {
        let connection = self.tables.connection(flow)?;
        connection.pending.front()?;
        let reply = connection.answer(at_last)?;
        Some(Outcome::Replied { status: reply.status, body: reply.body })
    }

    fn replied(&mut self, flow: u64, outcome: Outcome, event: &Event, reports: &mut Vec<Report>) {
        let Some(asked) = self.tables.connection(flow).and_then(|connection| connection.pending.front())
        else {
            return;
        };
        let granted = asked.request.form == Form::Connect
            && matches!(outcome, Outcome::Replied { status: Some(200..300), .. });
        if !asked.reported {
            self.report(flow, 0, outcome, event.time, reports);
        }
        self.tables.stop_waiting(flow);
        if let Some(connection) = self.tables.connection_mut(flow) {
            connection.settle();
            if granted {
                connection.becomes_opaque();
            }
        }
    }

    fn reply_ended(&mut self, flow: u64, event: &Event, reports: &mut Vec<Report>) {
        if let Some(outcome) = self.answer(flow, true) {
            self.replied(flow, outcome, event, reports);
        } else if let Some(connection) = self.tables.connection(flow) {
            // Behind an answer of its own, the sidecar discards what was pipelined: that was never handled.
            let handled = connection.answered == 0 || connection.tunnel.is_some();
            let pending = connection.pending.front().is_some_and(|asked| !asked.reported);
            let by_app = connection.app_closed || event.what == What::Ended(End::ClosedByPeer);
            if handled && pending {
                let outcome = if by_app { Outcome::GivenUp } else { Outcome::Closed };
                self.report(flow, 0, outcome, event.time, reports);
            }
        }
        self.tables.remove_connection(flow);
    }

    /// The sidecar's own sockets.
    fn upstream(&mut self, event: &Event) {
        let upstream = self.tables.upstreams.entry(event);
        match &event.what {
            What::Dialed => {}
            What::Ended(end) => {
                upstream.ended = Some(*end);
                self.tables.upstream_ended(event.flow);
            }
            What::Sent { offset, total, data } => {
                upstream.sent.get_or_insert(event.time);
                upstream.bytes.append(*offset, *total, data);
                if upstream.claim.is_none_or(|claim| !claim.by_bytes) {
                    self.claim(event.flow);
                }
            }
        }
    }

    /// Finds the session of an upstream socket by the request that it carries.
    fn claim(&mut self, upstream_flow: u64) {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return };
        let Some(request) = crate::head::request(upstream.bytes.as_slice()).head() else { return };
        let line = request_line(&request);
        let mut rewritten = None;
        let mut same = None;
        for flow in self.tables.waiting_for(&line, upstream.netns) {
            let Some(connection) = self.tables.connection(flow).filter(|c| c.tunnel.is_none()) else {
                continue;
            };
            let Some(asked) = connection.pending.iter().find(|asked| asked.line() == line) else { continue };
            match carried(&upstream.bytes, false, &connection.sent, &asked.request) {
                Some(Carried::SameBytes) => {
                    same = Some(flow);
                    break;
                }
                Some(Carried::RewrittenRequest)
                    if asked.rewritten.is_none() && is_envoys_own(&upstream.bytes) =>
                {
                    rewritten = rewritten.or(Some(flow));
                }
                _ => {}
            }
        }
        if let Some(flow) = same {
            self.tables.claim_tunnel(upstream_flow, flow);
        } else if let Some(flow) = rewritten {
            self.tables.claim_rewritten(upstream_flow, flow, &line);
        }
    }

    /// The sidecar's socket for a request, and what it carried: one that was claimed by its bytes, or the one that
    /// fits best of those that were dialled for nobody else meanwhile.
    fn find_upstream(
        &self,
        connection: &Connection,
        asked: &Asked,
        outcome: Outcome,
        time: u64,
    ) -> Option<(u64, Carried)> {
        if let Some(flow) = connection.tunnel {
            return Some((flow, Carried::SameBytes));
        }
        if let Some(flow) = asked.rewritten {
            return Some((flow, Carried::RewrittenRequest));
        }
        let sidecar = connection.sidecar?;
        let thread = connection.acceptor.as_ref().map(|task| task.tid);
        let mut best: Option<(u8, u64, Carried)> = None;
        for (flow, upstream) in self.tables.upstreams.unclaimed(connection.remote, thread) {
            let same_netns = upstream.netns == sidecar.netns || upstream.netns == 0 || sidecar.netns == 0;
            let meanwhile = upstream.dialed.unwrap_or(time) >= connection.opened.unwrap_or(0);
            if !same_netns || !meanwhile {
                continue;
            }
            let failed = upstream.ended == Some(End::DialFailed);
            let Some(carried) = carried(&upstream.bytes, failed, &connection.sent, &asked.request) else {
                continue;
            };
            let same_remote = upstream.remote == connection.remote;
            let same_thread = thread.is_some() && upstream.task.as_ref().map(|task| task.tid) == thread;
            let after_request = upstream.sent.is_some_and(|sent| sent >= asked.time);
            let fits = match carried {
                Carried::SameBytes => true,
                Carried::RewrittenRequest => after_request,
                // A deadline is long: in it, a thread begins TLS with many.
                Carried::Tls => after_request && (same_remote || outcome != Outcome::Pending),
                Carried::OtherBytes => after_request && same_remote,
                // Without bytes, only its address or an end of its own ties it to this connection; and a dial on
                // which nothing was sent explains a grant, a failure or a silence, but no other answer.
                Carried::Nothing | Carried::DialFailed => {
                    let explains = !matches!(outcome, Outcome::Replied { status, .. }
                        if !matches!(status, Some(200..300 | 503)));
                    explains && (same_remote || (same_thread && upstream.ended.is_some()))
                }
                Carried::NoConnection => false,
            };
            let rank =
                u8::from(same_remote) + u8::from(same_thread) + 3 * u8::from(carried == Carried::SameBytes);
            if fits && best.is_none_or(|(other, ..)| rank > other) {
                best = Some((rank, flow, carried));
            }
        }
        best.map(|(_, flow, carried)| (flow, carried))
    }

    /// Judges a request and reports it, unless there is nothing to say about it.
    fn report(&mut self, flow: u64, nth: usize, outcome: Outcome, time: u64, reports: &mut Vec<Report>) {
        let Some(connection) = self.tables.connection(flow) else { return };
        let Some(asked) = connection.pending.get(nth) else { return };
        let found = self.find_upstream(connection, asked, outcome, time);
        let evidence = Evidence {
            form: asked.request.form,
            intercepted: connection.sidecar.is_some(),
            outcome,
            upstream: found.map_or(Carried::NoConnection, |(_, carried)| carried),
            nothing_lost: asked.lost == self.lost,
            from_start: connection.opened.is_some(),
        };
        if let Some(judgement) = judge(&evidence) {
            let upstream =
                found.and_then(|(flow, _)| self.tables.upstreams.get(flow)).map(|upstream| upstream.remote);
            reports.push(self.describe(connection, asked, upstream, &evidence, judgement, time));
        }
        if let Some((upstream, carried)) = found
            && connection.tunnel.is_none()
            && asked.rewritten.is_none()
        {
            match carried {
                Carried::SameBytes => self.tables.claim_tunnel(upstream, flow),
                _ => self.tables.claim(upstream, flow, false),
            }
        }
        self.tables.mark_reported(flow, nth);
    }

    fn describe(
        &self,
        connection: &Connection,
        asked: &Asked,
        upstream: Option<std::net::SocketAddr>,
        evidence: &Evidence,
        judgement: crate::verdict::Judgement,
        time: u64,
    ) -> Report {
        let inbound = connection.sidecar.is_some_and(|s| self.settings.inbound_ports.contains(&s.port));
        let subject = report::Subject {
            request: &asked.request,
            proxy: connection.remote,
            upstream,
            sidecar_port: connection.sidecar.map(|sidecar| sidecar.port),
            inbound,
        };
        let crate::verdict::Judgement { verdict, reason } = judgement;
        let task = connection.task.as_ref();
        let acceptor = connection.acceptor.as_ref();
        let reply = connection.answer(true).filter(|_| matches!(evidence.outcome, Outcome::Replied { .. }));
        Report {
            v: 1,
            time: timestamp(asked.time.saturating_add(self.settings.clock_offset)),
            node: self.settings.node.clone(),
            verdict,
            reason,
            flagged: verdict.is_flagged(),
            source: report::Source {
                namespace: None,
                pod: None,
                container: None,
                workload: None,
                pid: task.map(|task| task.pid),
                comm: task.map(|task| task.comm.clone()),
                ip: connection.local.ip(),
                port: connection.local.port(),
            },
            proxy: connection.remote.into(),
            direction: if inbound { report::Direction::Inbound } else { report::Direction::Outbound },
            sidecar: connection.sidecar.map(|sidecar| report::Sidecar {
                port: sidecar.port,
                pid: acceptor.map(|task| task.pid),
                comm: acceptor.map(|task| task.comm.clone()),
            }),
            connect: report::Connect {
                authority: asked.request.authority.clone(),
                http_version: asked.request.http_version.clone(),
                user_agent: asked.request.user_agent.clone(),
            },
            reply: reply.map(|reply| report::Reply {
                from: replier(verdict, evidence.upstream),
                status: reply.status,
                server: reply.server,
                after_us: time.saturating_sub(asked.time) / 1_000,
            }),
            upstream: upstream.map(|remote| report::Upstream {
                ip: remote.ip(),
                port: remote.port(),
                carried: evidence.upstream,
            }),
            evidence: report::evidence(&subject, evidence),
            explanation: report::explanation(&subject, evidence, judgement),
            listener: None,
            fix: verdict.is_flagged().then(|| Report::page(verdict)),
            probes: self.settings.probes.clone(),
            joined_late: connection.opened.is_none(),
        }
    }
}

fn replier(verdict: Verdict, upstream: Carried) -> report::Replier {
    match (verdict, upstream) {
        (Verdict::HandledAsHttp | Verdict::AbsoluteFormRewritten, _) => report::Replier::Sidecar,
        (_, Carried::SameBytes) => report::Replier::Proxy,
        _ => report::Replier::Unknown,
    }
}

/// RFC 3339 with microseconds, of ns since the epoch.
fn timestamp(ns: u64) -> String {
    let micros = i64::try_from(ns / 1_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros)
        .unwrap_or(jiff::Timestamp::MAX)
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}
