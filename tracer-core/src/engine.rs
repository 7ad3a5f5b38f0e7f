//! The pure core: takes what the kernel saw, in order, and gives back a report for each request, exactly once. It
//! does no IO, has no clock (time arrives inside the input), and never fails.

mod ages;
mod connections;
mod build_report;
mod request_index;
mod attribution;
mod tables;
mod tunnels;
mod upstream;

use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::{
    connection::Connection,
    event::{End, Event, Role, What},
    flow::Ground,
    head::{Form, Reply},
    pod::{Fact, Key, Pod},
    report::Reports,
    verdict::{Carried, Evidence, Outcome, judge},
};
use attribution::Naming;
use build_report::Case;
use tables::Tables;

/// What reaches the core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The kernel saw something.
    Event(Event),
    /// The container runtime said whose processes are whose, at this time; `CLOCK_MONOTONIC`, ns.
    Fact(u64, Fact),
    /// Time passes; `CLOCK_MONOTONIC`, ns.
    Tick(u64),
}

/// How the core is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub probes: CompactString,
    /// How long a report may wait for its owner's name, in ns; 0: there is nobody who knows names.
    #[serde(default)]
    pub naming: u64,
    /// How long an owner is remembered after it is gone, in ns.
    #[serde(default = "minute")]
    pub remember: u64,
}

/// What a recording without that was made with.
fn minute() -> u64 {
    60_000_000_000
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

/// How a request came out.
struct Answer {
    outcome: Outcome,
    /// `Server` of a reply, escaped.
    server: Option<CompactString>,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, server: None }
    }
}

/// The core.
pub struct Engine {
    settings: Settings,
    tables: Tables,
    naming: Naming,
    /// How many records the node had lost by the latest event.
    lost: u32,
}

impl Engine {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            tables: Tables::default(),
            naming: Naming::new(settings.naming, settings.remember),
            settings,
            lost: 0,
        }
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        self.tables.stats()
    }

    /// Takes one input; puts the reports that follow from it into `reports`.
    pub fn feed(&mut self, mut input: Input, reports: &mut Reports) {
        match input {
            Input::Tick(time) => {
                self.pass(time, reports);
                self.naming.forget(time);
            }
            // It comes another way than the records, so no deadline passes by its time: older ones may still wait.
            Input::Fact(time, fact) => self.naming.learn(fact, time, reports),
            Input::Event(ref mut event) => {
                self.pass(event.time, reports);
                self.lost = event.lost;
                if self.tables.tunnels.contains(event.flow) {
                    // Its reply leg's end is the last of it that is told.
                    if event.role == Role::Reply && matches!(event.what, What::Ended(_)) {
                        self.tables.tunnels.remove(event.flow);
                    }
                    return;
                }
                match event.role {
                    Role::App => self.app(event, reports),
                    Role::Reply => self.reply(event, reports),
                    Role::Upstream => self.upstream(event),
                }
            }
        }
    }

    /// Nothing more comes: hands on the reports that still wait for a name.
    pub fn finish(&mut self, reports: &mut Reports) {
        self.naming.finish(reports);
    }

    /// Whose owners are wanted, since the previous call. Each is to be answered with a [`Fact`].
    pub fn take_wanted(&mut self) -> Vec<Key> {
        self.naming.take_wanted()
    }

    /// The pods that were gone for a minute, since the previous call: nothing more will be reported of them.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.naming.take_gone()
    }

    /// Reports the requests whose deadline has passed, and forgets what is old.
    fn pass(&mut self, time: u64, reports: &mut Reports) {
        let asked_before = time.saturating_sub(self.settings.deadline);
        while let Some(flow) = self.tables.pop_waiting(asked_before) {
            let Some(connection) = self.tables.connection(flow) else { continue };
            for nth in 0..connection.pending.len() {
                let Some(asked) = self.tables.connection(flow).and_then(|c| c.pending.get(nth)) else {
                    break;
                };
                if !asked.reported && asked.time <= asked_before {
                    // An answer whose head never became whole is one all the same.
                    let answer = (nth == 0).then(|| self.answer(flow, true)).flatten();
                    self.report(flow, nth, answer.unwrap_or_else(|| Outcome::Pending.into()), time, reports);
                }
            }
        }
        self.naming.pass(time, reports);
        let kept_after = time.saturating_sub(self.settings.keep);
        self.tables.expire(time, asked_before, kept_after, self.settings.capacity);
    }

    /// The app's leg.
    fn app(&mut self, event: &mut Event, reports: &mut Reports) {
        match &mut event.what {
            What::Dialed => {}
            What::Ended(_) => {
                let gone = self.tables.connection_mut(event.flow).is_some_and(|connection| {
                    connection.app_closed = true;
                    connection.sidecar.is_none()
                });
                if gone {
                    self.settle_direct(event.flow, event, true, reports);
                }
            }
            What::Sent { offset, total, data } => {
                let (offset, total, data) = (*offset, *total, std::mem::take(data));
                let Some(connection) = self.tables.connection_or_new(event) else { return };
                let added = connection.app_sent(event, offset, total, data);
                if connection.is_idle() {
                    self.tables.remove_connection(event.flow);
                    return;
                }
                let is_direct = connection.sidecar.is_none();
                self.naming.announce(Key::of(event.task.as_ref(), event.cgroup), event.time);
                if is_direct {
                    self.settle_direct(event.flow, event, false, reports);
                } else if added > 0 {
                    self.tables.wait(event.flow, event.time, added);
                    // A sidecar that does not want the connection closes it before the app has sent a byte.
                    if let Some(mut end) = self.tables.take_early_end(event.flow) {
                        self.reply(&mut end, reports);
                    }
                }
            }
        }
    }

    /// Without a sidecar there is nothing to wait for but the rest of the head. Whether the request was granted cannot be seen
    /// from here, and its end may not be told.
    fn settle_direct(&mut self, flow: u64, event: &Event, at_last: bool, reports: &mut Reports) {
        while let Some(asked) = self.tables.connection(flow).and_then(|connection| connection.pending.front())
        {
            if !asked.complete && !at_last {
                self.tables.wait(flow, event.time, 0);
                return;
            }
            if !asked.reported {
                self.report(flow, 0, Outcome::Pending.into(), event.time, reports);
            }
            if let Some(connection) = self.tables.connection_mut(flow) {
                connection.settle();
            }
        }
        if at_last || self.tables.connection(flow).is_some_and(Connection::is_settled) {
            self.tables.remove_connection(flow);
        }
    }

    /// The leg on which the sidecar answers.
    fn reply(&mut self, event: &mut Event, reports: &mut Reports) {
        let Some(flow) = self.tables.answered_by(event) else {
            if matches!(event.what, What::Ended(_)) {
                self.tables.keep_early_end(event);
            }
            return;
        };
        if let Some(dialed) = event.link {
            self.claim_by_link(dialed);
        }
        match &mut event.what {
            What::Dialed => {}
            What::Ended(_) => self.reply_ended(flow, event, reports),
            What::Sent { offset, total, data } => {
                if let Some(connection) = self.tables.connection_mut(flow) {
                    connection.sidecar_sent(*offset, *total, std::mem::take(data));
                }
                if let Some(answer) = self.answer(flow, false) {
                    self.replied(flow, answer, event, reports);
                }
            }
        }
    }

    /// The answer to a connection's oldest request, if it is there.
    fn answer(&self, flow: u64, at_last: bool) -> Option<Answer> {
        let connection = self.tables.connection(flow)?;
        connection.pending.front()?;
        let Reply { status, server, body } = connection.answer(at_last)?;
        Some(Answer { outcome: Outcome::Replied { status, body }, server })
    }

    fn replied(&mut self, flow: u64, answer: Answer, event: &Event, reports: &mut Reports) {
        let Some(asked) = self.tables.connection(flow).and_then(|connection| connection.pending.front())
        else {
            return;
        };
        let granted = asked.request.form == Form::Connect
            && matches!(answer.outcome, Outcome::Replied { status: Some(200..300), .. });
        if !asked.reported {
            self.report(flow, 0, answer, event.time, reports);
        }
        self.tables.stop_waiting(flow);
        if let Some(connection) = self.tables.connection_mut(flow) {
            connection.settle();
        }
        if granted {
            self.tables.grant(flow, event.time);
        }
    }

    fn reply_ended(&mut self, flow: u64, event: &Event, reports: &mut Reports) {
        if let Some(answer) = self.answer(flow, true) {
            self.replied(flow, answer, event, reports);
        } else if let Some(connection) = self.tables.connection(flow) {
            // Behind an answer of its own, the sidecar discards what was pipelined: that was never handled.
            let handled = connection.answered == 0 || connection.tunnel.is_some();
            let pending = connection.pending.front().is_some_and(|asked| !asked.reported);
            let by_app = connection.app_closed || event.what == What::Ended(End::ClosedByPeer);
            if handled && pending {
                let outcome = if by_app { Outcome::GivenUp } else { Outcome::Closed };
                self.report(flow, 0, outcome.into(), event.time, reports);
            }
        }
        self.tables.remove_connection(flow);
    }

    /// The sidecar's own sockets.
    fn upstream(&mut self, event: &mut Event) {
        let Some(upstream) = self.tables.upstreams.entry(event) else { return };
        match &mut event.what {
            What::Dialed => {}
            What::Ended(end) => {
                self.tables.upstreams.ended(event.flow, event.time, *end);
                self.tables.upstream_ended(event.flow);
            }
            What::Sent { offset, total, data } => {
                upstream.sent.get_or_insert(event.time);
                upstream.bytes.append(*offset, *total, std::mem::take(data));
                let is_by_bytes = upstream.claim.is_some_and(|claim| claim.ground >= Ground::Bytes);
                if !self.claim_by_link(event.flow) && !is_by_bytes {
                    self.claim_by_bytes(event.flow);
                }
                self.tables.speaks(event.flow);
            }
        }
    }

    /// Judges a request and reports it, unless there is nothing to say about it.
    fn report(&mut self, flow: u64, nth: usize, answer: Answer, time: u64, reports: &mut Reports) {
        let Answer { outcome, server } = answer;
        let Some(connection) = self.tables.connection(flow) else { return };
        let Some(asked) = connection.pending.get(nth) else { return };
        let found = self.find_upstream(connection, asked, outcome, time);
        let evidence = Evidence {
            form: asked.request.form,
            intercepted: connection.sidecar.is_some(),
            outcome,
            upstream: found.map_or(Carried::NoConnection, |(_, carried)| carried),
            upstream_failed: found
                .and_then(|(flow, _)| self.tables.upstreams.get(flow))
                .is_some_and(|upstream| upstream.ended.is_some() && !upstream.answered),
            nothing_lost: asked.lost == self.lost,
            from_start: connection.opened.is_some(),
        };
        if let Some(judgement) = judge(&evidence) {
            let upstream =
                found.and_then(|(flow, _)| self.tables.upstreams.get(flow)).map(|upstream| upstream.remote);
            let key = Key::of(connection.task.as_ref(), connection.cgroup);
            let report = self.describe(Case {
                connection,
                asked,
                upstream,
                evidence: &evidence,
                judgement,
                server,
                time,
            });
            self.naming.submit(key, Box::new(report), time, reports);
        }
        if let Some((upstream, carried)) = found
            && connection.tunnel.is_none()
            && asked.rewritten.is_none()
            && self.is_its_own(connection, upstream, carried, outcome)
            && self.tables.is_unclaimed_or_exchanged(upstream, carried)
        {
            match carried {
                Carried::SameBytes => self.tables.claim_tunnel(upstream, flow, Ground::Bytes),
                Carried::Nothing => self.tables.claim_mute(upstream, flow),
                Carried::RewrittenRequest => self.tables.claim(upstream, flow, Ground::Bytes),
                Carried::NoConnection | Carried::DialFailed | Carried::OtherBytes | Carried::Tls => {
                    self.tables.claim(upstream, flow, Ground::Circumstance);
                }
            }
        }
        self.tables.mark_reported(flow, nth);
    }
}
