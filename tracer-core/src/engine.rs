//! The pure engine: takes events in order and returns one report for each request, exactly once. It does no IO and has
//! no clock: time arrives inside its inputs.

mod app_leg;
mod attribution;
mod beyond;
mod build_report;
mod connection;
mod connections;
mod expiry;
mod failures;
mod leg_bytes;
mod losses;
mod matching;
mod namespace_index;
mod payload;
mod pending_request;
mod reply_leg;
mod request_index;
mod tables;
mod tenants;
mod tunnels;
mod upstream_sockets;

use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use self::{
    attribution::Attribution,
    build_report::ReportInput,
    connection::Connection,
    losses::Losses,
    matching::{Found, Search},
    tables::Tables,
    upstream_sockets::ClaimBasis,
};
use crate::{
    event::{Event, EventKind, Role},
    pod::{Fact, Owner, OwnerKey, Pod},
    report::Reports,
    verdict::{Evidence, Outcome, Payload, judge},
};

/// How long (ns) an answer may take after the app's FIN. An app that closed only its sending side still reads the answer; the
/// hooks cannot tell it from one that closed its socket.
const HALF_CLOSE_GRACE: u64 = 500_000_000;

/// One input of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A kernel event.
    Event(Event),
    /// A fact of the container runtime about a process's owner, and when it was learned (`CLOCK_MONOTONIC`, ns).
    Fact(u64, Fact),
    /// The time has come to this (`CLOCK_MONOTONIC`, ns).
    Tick(u64),
}

/// Settings of the engine. A recording holds them, so JSON names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a request may wait for its answer before it is reported as unanswered, in ns.
    pub deadline: u64,
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, in ns.
    pub clock_offset: u64,
    /// The ports on which a sidecar accepts connections from outside its pod.
    pub inbound_ports: Vec<u16>,
    /// The most connections that are followed at a time, and the most upstream sockets. Beyond it the oldest are
    /// dropped and counted in [`Stats::dropped`].
    pub capacity: usize,
    /// How long a connection is followed whose end is not seen, in ns.
    pub keep: u64,
    /// The node's name, for reports.
    pub node: Option<String>,
    /// The hook family, for reports. Recordings made before 0.1.0 call it `probes`.
    #[serde(alias = "probes")]
    pub family: CompactString,
    /// How long a report may wait for its owner's name, in ns. 0: there is no container runtime to ask.
    #[serde(default, rename = "naming")]
    pub owner_wait: u64,
    /// How long an owner is remembered after its last process ended, in ns.
    #[serde(default = "default_owner_ttl", rename = "remember")]
    pub owner_ttl: u64,
}

impl Default for Settings {
    /// Ten seconds for an answer, connections followed for an hour, Istio's inbound port, no container runtime.
    fn default() -> Self {
        Self {
            deadline: 10_000_000_000,
            clock_offset: 0,
            inbound_ports: vec![15006],
            capacity: Self::DEFAULT_CAPACITY,
            keep: 3_600_000_000_000,
            node: None,
            family: CompactString::const_new("cgroup"),
            owner_wait: 0,
            owner_ttl: 0,
        }
    }
}

impl Settings {
    /// The default [`capacity`](Self::capacity): enough for a node on which 65,536 connections to proxies are open or
    /// wait for an answer at a time.
    pub const DEFAULT_CAPACITY: usize = 65_536;
}

/// For recordings made before the setting was recorded.
fn default_owner_ttl() -> u64 {
    60_000_000_000
}

/// What the engine holds now, and what it had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are followed, tunnels included.
    pub connections: usize,
    /// Requests that wait for an answer.
    pub pending: usize,
    /// Upstream sockets that are known.
    pub upstreams: usize,
    /// Connections that were dropped because there were more than [`Settings::capacity`], or because they took too much
    /// memory.
    pub dropped: u64,
    /// Requests that are not tracked because their connection has too many without an answer.
    pub untracked: u64,
    /// The memory that connections take, in bytes.
    pub bytes: usize,
}

/// How many requests are reported as unanswered for one input, so that their reports take bounded memory. The others follow
/// with the next inputs.
const DEADLINES_AT_ONCE: usize = 256;

/// The outcome of a request.
struct Answer {
    outcome: Outcome,
    /// The answer's `Server` header, escaped.
    server: Option<CompactString>,
    /// The answer has a sign of a forward proxy.
    by_proxy: bool,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, server: None, by_proxy: false }
    }
}

/// The engine.
pub struct Engine {
    settings: Settings,
    tables: Tables,
    attribution: Attribution,
    losses: Losses,
    /// There are more overdue requests than one input reports.
    is_behind: bool,
}

impl Engine {
    /// An engine without state.
    pub fn new(settings: Settings) -> Self {
        Self {
            tables: Tables::default(),
            attribution: Attribution::new(settings.owner_wait, settings.owner_ttl),
            settings,
            losses: Losses::default(),
            is_behind: false,
        }
    }

    /// What it holds now.
    pub fn stats(&self) -> Stats {
        self.tables.stats()
    }

    /// Takes one input and appends the reports that follow from it to `reports`.
    pub fn feed(&mut self, mut input: Input, reports: &mut Reports) {
        match input {
            Input::Tick(time) => {
                self.advance(time, reports);
                self.attribution.expire(time);
            }
            // Facts and records come by different ways. A fact's time passes no deadline, since older records may
            // still be on their way.
            Input::Fact(time, fact) => self.attribution.learn(fact, time, reports),
            Input::Event(ref mut event) => {
                self.advance(event.time, reports);
                self.losses.note(event);
                if self.tables.tunnels.contains(event.flow) {
                    // The reply leg's end is the last event of a tunnel.
                    if event.role == Role::Reply && matches!(event.kind, EventKind::Ended(_)) {
                        self.tables.tunnels.remove(event.flow);
                    }
                    return;
                }
                match event.role {
                    Role::App => self.app_event(event, reports),
                    Role::Reply => self.reply_event(event, reports),
                    Role::Upstream => self.upstream_event(event),
                }
            }
        }
    }

    /// Whether requests are overdue that the latest input did not report. Another [`Input::Tick`] reports more.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Ends the stream of inputs: appends the reports that still wait for their owner's name.
    pub fn finish(&mut self, reports: &mut Reports) {
        self.attribution.finish(reports);
    }

    /// The owners that were asked for since the previous call. Each is to be answered with a [`Fact`].
    pub fn take_wanted(&mut self) -> Vec<OwnerKey> {
        self.attribution.take_wanted()
    }

    /// The owner of a process. Where it is not known, it is asked for; see [`Self::take_wanted`].
    pub fn owner(&mut self, key: OwnerKey, time: u64) -> Option<&Owner> {
        self.attribution.owner(key, time)
    }

    /// The pods that were forgotten since the previous call. No later report names them.
    pub fn take_gone(&mut self) -> Vec<Arc<Pod>> {
        self.attribution.take_gone()
    }

    /// Reports the requests whose deadline has passed, and forgets what has expired.
    fn advance(&mut self, time: u64, reports: &mut Reports) {
        let asked_before = time.saturating_sub(self.settings.deadline);
        let reported_before = reports.len();
        let has_room = |reports: &Reports| reports.len() - reported_before < DEADLINES_AT_ONCE;
        while has_room(reports)
            && let Some((ticket, flow)) = self.tables.pop_waiting(asked_before)
        {
            let Some(connection) = self.tables.connection(flow) else { continue };
            for nth in connection.waiting_with(ticket) {
                let request = self.tables.connection(flow).and_then(|connection| connection.pending.get(nth));
                if request.is_some_and(|request| !request.reported && request.time <= asked_before) {
                    // An answer whose head was never completed is still an answer.
                    let answer = (nth == 0).then(|| self.answer(flow, true)).flatten();
                    self.report(flow, nth, answer.unwrap_or_else(|| Outcome::Pending.into()), time, reports);
                }
            }
        }
        let closed_before = time.saturating_sub(HALF_CLOSE_GRACE);
        while has_room(reports)
            && let Some((_, flow)) = self.tables.given_up.pop(closed_before)
        {
            self.report_given_up(flow, reports);
        }
        self.is_behind = !has_room(reports);
        self.attribution.advance(time, reports);
        let kept_after = time.saturating_sub(self.settings.keep);
        self.losses.expire(kept_after);
        self.tables.expire(time, asked_before, kept_after, self.settings.capacity);
    }

    /// Handles an event of a socket that a sidecar dialed.
    fn upstream_event(&mut self, event: &mut Event) {
        let link = self.tables.upstreams.entry(event).link;
        match &mut event.kind {
            EventKind::Dialed => {}
            EventKind::Ended(end) => {
                let by = link.and_then(|reply| self.tables.by_reply(reply));
                let dialed_for = by.map(|connection| connection.remote);
                self.tables.upstreams.set_ended(event.flow, event.time, *end, dialed_for);
                self.tables.learn_from_failure(event.flow, event.time);
                self.tables.upstream_ended(event.flow);
            }
            EventKind::Sent { offset, total, data } => {
                let Some(upstream) = self.tables.upstreams.get_mut(event.flow) else { return };
                upstream.sent.get_or_insert(event.time);
                upstream.note_tls(*offset, data);
                upstream.bytes.append(*offset, *total, std::mem::take(data));
                let is_by_bytes = upstream.claim.is_some_and(|claim| claim.basis >= ClaimBasis::Bytes);
                self.tables.upstreams.set_address(event.flow, event.local);
                if !self.claim_by_link(event.flow) && !is_by_bytes {
                    self.claim_by_bytes(event.flow);
                }
                self.tables.sent_payload(event.flow);
            }
        }
    }

    /// Whether a socket that may be this connection's was dropped for lack of room.
    fn is_crowded_out(&self, connection: &Connection) -> bool {
        let since = connection.begun();
        let netns = connection.sidecar.map(|sidecar| sidecar.netns);
        netns.is_some_and(|netns| self.tables.upstreams.crowded_out_since(netns, since))
    }

    /// Whether no record was lost since the evidence for a connection begins.
    fn saw_all(&self, connection: &Connection) -> bool {
        self.losses.none_since(connection.seen_since(), connection)
    }

    /// Whether no record was lost lately that may have told of another session which waited meanwhile.
    fn knows_all_others(&self, connection: &Connection) -> bool {
        let lately = connection.seen_since().saturating_sub(self.settings.deadline);
        self.losses.none_since(lately, connection)
    }

    /// The evidence on a request, with the socket that was found for it.
    fn evidence(&self, search: Search<'_>, found: Option<Found>, by_proxy: bool) -> Evidence {
        let Search { connection, request, outcome, .. } = search;
        let socket = found.and_then(|found| self.tables.upstreams.get(found.flow?));
        Evidence {
            form: request.request.form,
            interceptor: connection.interceptor(),
            outcome,
            upstream: found.map_or(Payload::NoConnection, |found| found.payload),
            upstream_in_doubt: found.is_some_and(|found| found.in_doubt),
            upstream_failed: socket.is_some_and(|upstream| upstream.ended.is_some() && !upstream.answered),
            tls_established: socket.is_some_and(|upstream| upstream.tls_established),
            shared_upstream: connection.shared_upstream,
            was_kept: connection.was_kept(),
            // A dial that failed before the sidecar accepted this connection may be why it closed it.
            nothing_lost: self.saw_all(connection)
                && !self.is_crowded_out(connection)
                && (outcome != Outcome::Closed
                    || connection.was_kept() == Some(false)
                    || self.knows_all_others(connection)),
            from_start: connection.opened.is_some(),
            by_proxy,
        }
    }

    /// Judges a request and submits its report, if the verdict rules report it at all. The upstream socket that
    /// explains the outcome is claimed.
    fn report(&mut self, flow: u64, nth: usize, answer: Answer, time: u64, reports: &mut Reports) {
        let Answer { outcome, server, by_proxy } = answer;
        let Some(connection) = self.tables.connection(flow) else { return };
        let Some(request) = connection.pending.get(nth) else { return };
        let search = Search { connection, request, outcome, time };
        let found = self.find_upstream(search);
        let socket = found.and_then(|found| self.tables.upstreams.get(found.flow?));
        let evidence = self.evidence(search, found, by_proxy);
        // The bytes that the other side got were the app's own, so its answer is also the app's.
        let beyond = socket
            .and_then(|socket| socket.beyond.as_deref())
            .filter(|beyond| evidence.upstream == Payload::SameBytes && beyond.evidence.outcome == outcome);
        if let Some(judgment) = beyond.map(|beyond| beyond.judgment).or_else(|| judge(&evidence)) {
            let key = OwnerKey::of(connection.task.as_ref(), connection.cgroup);
            let report = self.build_report(ReportInput {
                connection,
                request,
                upstream: socket.map(|upstream| upstream.remote),
                evidence: &evidence,
                beyond,
                judgment,
                server,
                time,
            });
            self.attribution.submit(key, Box::new(report), time, reports);
        }
        if let Some(Found { flow: Some(upstream), payload, in_doubt: false }) = found
            && connection.tunnel.is_none()
            && request.rewritten.is_none()
            && self.is_certain(connection, upstream, payload, outcome)
            && self.tables.may_be_claimed(upstream, payload)
        {
            match payload {
                Payload::SameBytes => self.tables.claim_tunnel(upstream, flow, ClaimBasis::Bytes),
                Payload::Nothing => self.tables.claim_silent(upstream, flow),
                Payload::RewrittenRequest => self.tables.claim(upstream, flow, ClaimBasis::Bytes),
                Payload::NoConnection
                | Payload::DialFailed
                | Payload::OtherBytes
                | Payload::OwnConnect
                | Payload::Tls => {
                    self.tables.claim(upstream, flow, ClaimBasis::TimeAndAddress);
                }
            }
        }
        self.tables.mark_reported(flow, nth);
    }
}
