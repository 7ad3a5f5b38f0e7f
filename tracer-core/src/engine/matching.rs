//! Matches the sidecars' upstream sockets to requests: by the bytes they carried, else by when, where to and by which
//! thread they were dialed.

use std::cmp::Reverse;

use super::{
    Engine,
    connection::Connection,
    failures::{Failure, FailureStage},
    payload::{classify, is_origin_form, is_passed_on, is_written_by_envoy, tunneled},
    pending_request::{PendingRequest, request_key},
    tables::Target,
    upstream_sockets::{ClaimBasis, UpstreamSocket},
};
use crate::{
    event::End,
    head,
    verdict::{Outcome, Payload},
};

/// A request that has ended, for whose upstream socket is searched.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) connection: &'a Connection,
    pub(super) request: &'a PendingRequest,
    pub(super) outcome: Outcome,
    /// When it ended.
    pub(super) time: u64,
}

/// The socket that explains how a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its flow. `None`: there is only a doubt.
    pub(super) flow: Option<u64>,
    /// What it carried.
    pub(super) payload: Payload,
    /// It may be another session's.
    pub(super) in_doubt: bool,
}

impl Found {
    fn sure((flow, payload): (u64, Payload)) -> Self {
        Self { flow: Some(flow), payload, in_doubt: false }
    }

    /// No socket was found, but one may have gone unnoticed.
    const DOUBT: Self = Self { flow: None, payload: Payload::NoConnection, in_doubt: true };
}

impl Engine {
    /// Claims an upstream socket for the connection that it was dialed for, if it carries that connection's bytes.
    /// Otherwise Envoy's pool has given it to another connection, or it was dialed for an HTTP request.
    pub(super) fn claim_by_link(&mut self, upstream_flow: u64) -> bool {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return false };
        let Some(reply) = upstream.link else { return false };
        let carries_it =
            |connection: &&Connection| is_passed_on(upstream.bytes.as_slice(), &connection.app_bytes);
        let linked = self.tables.by_reply(reply).filter(carries_it);
        let Some(flow) = linked.map(|connection| connection.flow) else { return false };
        if upstream.claim.is_none_or(|claim| claim.basis != ClaimBasis::Link) {
            self.tables.claim_tunnel(upstream_flow, flow, ClaimBasis::Link);
        }
        true
    }

    /// Claims an upstream socket for the oldest connection whose request it carries.
    pub(super) fn claim_by_bytes(&mut self, upstream_flow: u64) {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return };
        let Some(request) = head::request(upstream.bytes.as_slice()).head() else { return };
        let key = request_key(&request);
        let mut rewritten = None;
        let mut same = None;
        for flow in self.tables.requests.unmatched(key, upstream.netns) {
            let Some(connection) = self.tables.connection(flow) else { continue };
            let Some(request) = connection.pending.iter().find(|request| request.key == key) else {
                continue;
            };
            // The sidecar dials the address that the app dialed, unless that is a Service's virtual address.
            if self.tables.target(connection, upstream.remote) != Target::Own {
                continue;
            }
            match classify(&upstream.bytes, false, &connection.app_bytes, &request.request) {
                Some(Payload::SameBytes) => {
                    same = Some(flow);
                    break;
                }
                Some(Payload::RewrittenRequest)
                    if request.rewritten.is_none() && is_written_by_envoy(upstream.bytes.as_slice()) =>
                {
                    rewritten = rewritten.or(Some(flow));
                }
                Some(
                    Payload::RewrittenRequest
                    | Payload::NoConnection
                    | Payload::DialFailed
                    | Payload::Nothing
                    | Payload::Tls
                    | Payload::OwnConnect
                    | Payload::OtherBytes,
                )
                | None => {}
            }
        }
        if let Some(flow) = same {
            self.tables.claim_tunnel(upstream_flow, flow, ClaimBasis::Bytes);
        } else if let Some(flow) = rewritten {
            self.tables.claim_rewritten(upstream_flow, flow, key);
        } else {
            // It is matched when one of the connections that sent this request is answered.
            self.tables.upstreams.set_request(upstream_flow, key);
        }
    }

    /// The sidecar's socket for a request, and what it carried: the one that was claimed by its bytes, else the best
    /// match among the unclaimed ones that were dialed meanwhile.
    pub(super) fn find_upstream(&self, search: Search<'_>) -> Option<Found> {
        let Search { connection, request, outcome, .. } = search;
        if outcome == Outcome::Closed && connection.was_kept() == Some(false) {
            return None; // no filter was there to wait for a socket
        }
        if let Some(flow) = connection.tunnel.filter(|flow| self.still_carries(*flow, connection)) {
            let upstream = self.tables.upstreams.get(flow);
            let is_inside = upstream.is_some_and(|upstream| tunneled(upstream.bytes.as_slice()).is_some());
            let payload = if is_inside { Payload::OwnConnect } else { Payload::SameBytes };
            return Some(Found::sure((flow, payload)));
        }
        if let Some(flow) = request.rewritten {
            return Some(Found::sure((flow, Payload::RewrittenRequest)));
        }
        if outcome != Outcome::Pending
            && let Some(found) = self.take_over(search)
        {
            return Some(Found::sure(found));
        }
        if let Some((flow, payload)) = self.linked(search) {
            // The link may be that of a socket for an HTTP request, whose session may be among what was lost.
            let in_doubt = payload == Payload::Tls && !self.knows_all_others(connection);
            return Some(Found { flow: Some(flow), payload, in_doubt });
        }
        let best = self.best_candidate(search);
        let is_silent = best.is_none_or(|found| found.payload == Payload::Nothing);
        if outcome == Outcome::Closed && is_silent {
            let failure = self.failure(search);
            // A socket of its own explains more than a doubt.
            return failure.filter(|found| found.flow.is_some()).or(best).or(failure);
        }
        best
    }

    /// The failed dial that explains why the sidecar closed a connection, or the doubt that there is one.
    fn failure(&self, search: Search<'_>) -> Option<Found> {
        let Search { connection, time, .. } = search;
        let netns = connection.sidecar?.netns;
        let failures = self.tables.upstreams.failures();
        let mut doubt = failures.has_too_many(netns).then_some(Found::DOUBT);
        let shared = failures.shared_since(netns, connection.seen_since());
        for (failure, is_over) in shared.filter(|(failure, _)| failure.time <= time) {
            let Failure { flow, remote, stage, .. } = *failure;
            let dialed_for = failures.dialed_for(failure);
            let link = failures.link(failure);
            let by = link.and_then(|reply| self.tables.by_reply(reply)).map(|by| by.remote);
            let target = match (self.tables.target(connection, remote), dialed_for.or(by)) {
                (Target::Own, _) => Target::Own,
                (_, Some(dialed)) if dialed == connection.remote => Target::Own,
                (_, Some(_)) => Target::Others,
                // It was for the app that dialed that address, unless it is known to be for another connection.
                (Target::Dialed, None) if link.is_none() => Target::Others,
                (target, None) => target,
            };
            // Whether Envoy had handled a failure is not known without the connection that it was for. One towards the
            // same address leaves a doubt even then: it may have been one of several.
            let may_be_over = is_over || link.is_none() && failure.time < connection.seen_since();
            match (target, stage) {
                (Target::Others, _) => {}
                (Target::Unknown | Target::Dialed, _) if is_over => {}
                // That address cannot be reached lately. Not each dial has a record: one may fail within `connect`.
                (Target::Own, FailureStage::Dial) => {
                    return Some(Found::sure((flow, Payload::DialFailed)));
                }
                (Target::Own, FailureStage::Open) if !may_be_over => {
                    return Some(Found::sure((flow, Payload::Nothing)));
                }
                // An app may speak TLS with its proxy. A connection is known only if its app sent a plaintext request.
                (Target::Own, FailureStage::Tls)
                    if !may_be_over && dialed_for.or(by) == Some(connection.remote) =>
                {
                    return Some(Found::sure((flow, Payload::Tls)));
                }
                (Target::Own | Target::Unknown | Target::Dialed, _) => doubt = Some(Found::DOUBT),
            }
        }
        doubt
    }

    /// The best match among the unclaimed sockets.
    fn best_candidate(&self, search: Search<'_>) -> Option<Found> {
        let Search { connection, request, outcome, time } = search;
        let sidecar = connection.sidecar?;
        let thread = connection.acceptor.as_ref().map(|task| task.tid);
        let begun = connection.begun();
        let (netns, remote) = (sidecar.netns, connection.remote);
        let candidates = self.tables.upstreams.candidates(netns, remote, thread, begun, request.key);
        let mut best: Option<(_, Found)> = None;
        for (flow, upstream) in candidates {
            let same_netns = upstream.netns == sidecar.netns && sidecar.netns != 0;
            let meanwhile = upstream.dialed.is_none_or(|dialed| (begun..=time).contains(&dialed))
                && upstream.sent.is_none_or(|sent| sent <= time);
            if !same_netns || !meanwhile {
                continue;
            }
            let failed = upstream.ended == Some(End::DialFailed);
            let payload = classify(&upstream.bytes, failed, &connection.app_bytes, &request.request);
            let Some(payload) = payload else { continue };
            if self.is_for_another(upstream, connection, payload, outcome) {
                continue;
            }
            let target = self.tables.target(connection, upstream.remote);
            let same_remote = target == Target::Own;
            let same_thread = thread.is_some() && upstream.task.as_ref().map(|task| task.tid) == thread;
            let is_free = target == Target::Unknown;
            let is_linked = upstream.link.is_some() && upstream.link == connection.reply;
            let after_request = upstream.sent.is_some_and(|sent| sent >= request.time);
            let fits = match payload {
                Payload::SameBytes | Payload::OwnConnect => same_remote || is_free,
                Payload::RewrittenRequest => after_request && (same_remote || is_free),
                // TLS may begin before the app has sent a byte. Before a deadline, which is long, a thread begins TLS
                // with many peers.
                Payload::Tls => same_remote || (is_free && after_request && outcome != Outcome::Pending),
                Payload::OtherBytes => after_request && same_remote,
                // Without bytes, only its address ties a socket to this connection, and it explains a grant, a failure or
                // a silence, but no other answer.
                Payload::Nothing | Payload::DialFailed => {
                    match outcome {
                        // A filter that terminates a CONNECT has read the request before it dials.
                        // A TCP filter's dial is linked, and its connection may be another's by now.
                        Outcome::Replied { status: Some(200..300), .. } => {
                            same_remote
                                && self.is_unlinked(upstream)
                                && !failed
                                && upstream.dialed.is_none_or(|dialed| dialed >= request.time)
                        }
                        Outcome::Replied { status: Some(503), .. }
                        | Outcome::Closed
                        | Outcome::GivenUp
                        | Outcome::Pending => same_remote,
                        Outcome::Replied { .. } | Outcome::NotAccepted => false,
                    }
                }
                Payload::NoConnection => false,
            };
            // The app's own bytes count most, then the address, the thread, and other bytes. A closed connection is
            // most likely caused by the end of a silent socket. Among equals the earliest wins: a later one may be the
            // only match for a later request.
            let is_cause = outcome == Outcome::Closed && upstream.ended.is_some() && weight(payload) == 0;
            let earliest = Reverse((upstream.dialed, upstream.sent));
            let is_same = payload == Payload::SameBytes;
            let rank = (is_same, same_remote, same_thread, weight(payload), is_cause, earliest);
            let in_doubt = match payload {
                // An app may speak TLS with its proxy.
                Payload::Tls => !is_linked,
                // The session whose bytes these are may be among what was lost. A link of a socket that was dialed for an
                // HTTP request is unreliable.
                Payload::SameBytes | Payload::OwnConnect => {
                    !is_linked && !same_remote && !self.knows_all_others(connection)
                }
                Payload::RewrittenRequest => !same_remote && !self.knows_all_others(connection),
                Payload::NoConnection | Payload::Nothing | Payload::DialFailed | Payload::OtherBytes => false,
            };
            if fits && best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, Found { flow: Some(flow), payload, in_doubt }));
            }
        }
        best.map(|(_, found)| found)
    }

    /// Whether a claimed socket still carries the connection's bytes. More pieces of a request may have come since it
    /// was compared.
    fn still_carries(&self, upstream: u64, connection: &Connection) -> bool {
        let Some(upstream) = self.tables.upstreams.get(upstream) else { return true };
        connection.opaque || is_passed_on(upstream.bytes.as_slice(), &connection.app_bytes)
    }

    /// The socket that the sidecar's thread was seen to dial for this connection.
    fn linked(&self, search: Search<'_>) -> Option<(u64, Payload)> {
        let Search { connection, request, outcome, time } = search;
        let flow = connection.linked_upstream?;
        let is_free =
            |upstream: &&UpstreamSocket| upstream.claim.is_none_or(|claim| claim.by == connection.flow);
        let upstream = self.tables.upstreams.get(flow).filter(is_free)?;
        // Only the TCP proxy asks for a tunnel in this form, so the link is reliable.
        let is_in_tunnel = tunneled(upstream.bytes.as_slice()).is_some();
        let may_be_its_own = is_in_tunnel || self.may_be_for(upstream, connection);
        if !may_be_its_own || upstream.sent.is_some_and(|sent| sent > time) {
            return None;
        }
        let failed = upstream.ended == Some(End::DialFailed);
        let payload = classify(&upstream.bytes, failed, &connection.app_bytes, &request.request)
            .or(is_in_tunnel.then_some(Payload::OwnConnect))?;
        let is_silent = matches!(payload, Payload::Nothing | Payload::DialFailed);
        match outcome {
            // An answer cannot have come through a socket on which nothing was sent.
            Outcome::Replied { .. } => !is_silent,
            // The pool may have failed it together with the dial of another.
            Outcome::Closed => payload != Payload::Nothing || upstream.ended.is_some(),
            Outcome::GivenUp | Outcome::Pending => true,
            Outcome::NotAccepted => false,
        }
        .then_some((flow, payload))
    }

    /// Whether the sidecar's thread was seen to dial this socket for another connection.
    fn is_for_another(
        &self,
        upstream: &UpstreamSocket,
        connection: &Connection,
        payload: Payload,
        outcome: Outcome,
    ) -> bool {
        let Some(reply) = upstream.link.filter(|reply| connection.reply != Some(*reply)) else {
            return false;
        };
        let other = self.tables.by_reply(reply);
        match (payload, outcome) {
            // The pool gives a socket whose connection is over to another connection.
            (Payload::SameBytes, _) => other.is_some_and(|other| {
                !other.app_closed && is_passed_on(upstream.bytes.as_slice(), &other.app_bytes)
            }),
            // The link of a socket dialed for an HTTP request is unreliable.
            (Payload::RewrittenRequest | Payload::NoConnection, _)
            | (Payload::Nothing | Payload::DialFailed, Outcome::Replied { .. }) => false,
            // Most connections carry no request to a proxy and are unknown here.
            (
                Payload::Tls
                | Payload::OtherBytes
                | Payload::OwnConnect
                | Payload::Nothing
                | Payload::DialFailed,
                _,
            ) => other.is_none_or(|other| self.may_be_for(upstream, other)),
        }
    }

    /// Whether a socket linked to a connection may have been dialed for it. It was not if another app dialed that
    /// address, or if the socket carries another request.
    pub(super) fn may_be_for(&self, upstream: &UpstreamSocket, connection: &Connection) -> bool {
        let bytes = upstream.bytes.as_slice();
        let is_request = head::request(bytes).head().is_some() || is_origin_form(bytes);
        self.tables.may_be_for(connection, upstream.remote)
            && (!is_request || is_passed_on(bytes, &connection.app_bytes))
    }

    /// Whether the match is certain enough that no other connection should be offered the socket.
    pub(super) fn is_certain(
        &self,
        connection: &Connection,
        upstream: u64,
        payload: Payload,
        outcome: Outcome,
    ) -> bool {
        let by_bytes = matches!(payload, Payload::SameBytes | Payload::RewrittenRequest);
        let remote = self.tables.upstreams.get(upstream).map(|upstream| upstream.remote);
        match outcome {
            Outcome::Replied { .. } => by_bytes || remote == Some(connection.remote),
            Outcome::Closed => true,
            Outcome::GivenUp => by_bytes,
            Outcome::Pending | Outcome::NotAccepted => false,
        }
    }

    /// The socket of another connection that sent the same request and still waits. Bytes cannot tell the sockets of
    /// such connections apart, but the request that is answered first was passed on first.
    fn take_over(&self, search: Search<'_>) -> Option<(u64, Payload)> {
        let Search { connection, request, time, .. } = search;
        let netns = connection.sidecar?.netns;
        self.tables.requests.matched(request.key, netns).find_map(|flow| {
            let other = self.tables.connection(flow)?;
            let waiting = other.pending.front().filter(|waiting| !waiting.reported)?;
            let socket = other.tunnel.or(waiting.rewritten)?;
            let upstream = self.tables.upstreams.get(socket).filter(|socket| socket.sent <= Some(time))?;
            // A socket that was dialed for the other connection stays with it.
            upstream.claim.filter(|claim| claim.basis != ClaimBasis::Link)?;
            let is_others = upstream.remote == other.remote && other.remote != connection.remote;
            let payload = classify(&upstream.bytes, false, &connection.app_bytes, &request.request)?;
            let fits = matches!(payload, Payload::SameBytes | Payload::RewrittenRequest) && !is_others;
            fits.then_some((socket, payload))
        })
    }
}

/// How much a payload says about which session its socket belongs to.
fn weight(payload: Payload) -> u8 {
    match payload {
        Payload::NoConnection | Payload::Nothing | Payload::DialFailed => 0,
        Payload::OtherBytes => 1,
        Payload::Tls => 2,
        Payload::RewrittenRequest | Payload::OwnConnect => 3,
        Payload::SameBytes => 4,
    }
}
