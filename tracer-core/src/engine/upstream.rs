//! Which of the sidecar's own sockets belongs to which request. By the bytes it carried where it carried any; else by
//! when, where to and by which thread it was dialled.

use std::cmp::Reverse;

use super::Engine;
use crate::{
    connection::{Asked, Connection, carried, is_envoys_own, is_origin_form, line, passes_on, tunnelled},
    event::End,
    flow::{Failure, Ground, Stage, Upstream},
    head,
    verdict::{Carried, Outcome},
};

impl Engine {
    /// Gives an upstream socket to the connection that it was dialled for, if it carries that one's bytes. Where it does
    /// not, Envoy's pool has given it to another, or it was an HTTP request's.
    pub(super) fn claim_by_link(&mut self, upstream_flow: u64) -> bool {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return false };
        let Some(reply) = upstream.link else { return false };
        let is_due = |connection: &&Connection| passes_on(upstream.bytes.as_slice(), &connection.sent);
        let linked = self.tables.by_reply(reply).filter(is_due);
        let Some(flow) = linked.map(|connection| connection.flow) else { return false };
        if upstream.claim.is_none_or(|claim| claim.ground != Ground::Link) {
            self.tables.claim_tunnel(upstream_flow, flow, Ground::Link);
        }
        true
    }

    /// Finds the session of an upstream socket by the request that it carries.
    pub(super) fn claim_by_bytes(&mut self, upstream_flow: u64) {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return };
        let Some(request) = head::request(upstream.bytes.as_slice()).head() else { return };
        let line = line(&request);
        let mut rewritten = None;
        let mut same = None;
        for flow in self.tables.lines.open(line, upstream.netns) {
            let Some(connection) = self.tables.connection(flow) else { continue };
            let Some(asked) = connection.pending.iter().find(|asked| asked.line == line) else { continue };
            // The sidecar dials what the app dialled, but for a Service's virtual address.
            if connection.remote != upstream.remote {
                continue;
            }
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
                Some(
                    Carried::RewrittenRequest
                    | Carried::NoConnection
                    | Carried::DialFailed
                    | Carried::Nothing
                    | Carried::Tls
                    | Carried::OtherBytes,
                )
                | None => {}
            }
        }
        if let Some(flow) = same {
            self.tables.claim_tunnel(upstream_flow, flow, Ground::Bytes);
        } else if let Some(flow) = rewritten {
            self.tables.claim_rewritten(upstream_flow, flow, line);
        } else {
            // Whose it is will show when one of them is answered.
            self.tables.upstreams.asks(upstream_flow, line);
        }
    }

    /// The sidecar's socket for a request, and what it carried: one that was claimed by its bytes, or the one that
    /// fits best of those that were dialled for nobody else meanwhile.
    pub(super) fn find_upstream(
        &self,
        connection: &Connection,
        asked: &Asked,
        outcome: Outcome,
        time: u64,
    ) -> Option<(u64, Carried)> {
        if let Some(flow) = connection.tunnel.filter(|flow| self.is_still_its_tunnel(*flow, connection)) {
            return Some((flow, Carried::SameBytes));
        }
        if let Some(flow) = asked.rewritten {
            return Some((flow, Carried::RewrittenRequest));
        }
        if outcome != Outcome::Pending
            && let Some(found) = self.exchange(connection, asked, time)
        {
            return Some(found);
        }
        if let Some(found) = self.linked(connection, asked, outcome, time) {
            return Some(found);
        }
        let sidecar = connection.sidecar?;
        let thread = connection.acceptor.as_ref().map(|task| task.tid);
        let begun = connection.accepted.or(connection.opened).unwrap_or(0);
        let mut best: Option<(_, u64, Carried)> = None;
        for (flow, upstream) in self.tables.upstreams.unclaimed(connection.remote, thread, begun, asked.line)
        {
            let same_netns = upstream.netns == sidecar.netns || upstream.netns == 0 || sidecar.netns == 0;
            let meanwhile = upstream.dialed.is_none_or(|dialed| (begun..=time).contains(&dialed))
                && upstream.sent.is_none_or(|sent| sent <= time);
            if !same_netns || !meanwhile {
                continue;
            }
            let failed = upstream.ended == Some(End::DialFailed);
            let Some(carried) = carried(&upstream.bytes, failed, &connection.sent, &asked.request) else {
                continue;
            };
            if self.is_anothers(upstream, connection, carried, outcome) {
                continue;
            }
            let same_remote = upstream.remote == connection.remote;
            let same_thread = thread.is_some() && upstream.task.as_ref().map(|task| task.tid) == thread;
            // What was dialled to an address that another app means is for that app.
            let is_free = !self.tables.is_dialed_by_app(upstream.remote);
            let after_request = upstream.sent.is_some_and(|sent| sent >= asked.time);
            let fits = match carried {
                Carried::SameBytes => same_remote || is_free,
                Carried::RewrittenRequest => after_request && (same_remote || is_free),
                // It may have begun before the app had sent a byte. A deadline is long: in it, a thread begins TLS
                // with many.
                Carried::Tls => same_remote || (is_free && after_request && outcome != Outcome::Pending),
                Carried::OtherBytes => after_request && same_remote,
                // Without bytes, only its address or an end of its own ties it to this connection; and a dial on
                // which nothing was sent explains a grant, a failure or a silence, but no other answer.
                Carried::Nothing | Carried::DialFailed => {
                    let by_thread = is_free && same_thread && upstream.ended.is_some();
                    match outcome {
                        // What terminates a CONNECT has read it before it dials.
                        Outcome::Replied { status: Some(200..300), .. } => {
                            same_remote
                                && !failed
                                && upstream.dialed.is_none_or(|dialed| dialed >= asked.time)
                        }
                        Outcome::Replied { status: Some(503), .. } | Outcome::Closed => {
                            same_remote || by_thread
                        }
                        Outcome::GivenUp | Outcome::Pending => same_remote,
                        Outcome::Replied { .. } => false,
                    }
                }
                Carried::NoConnection => false,
            };
            // The app's bytes say most, then where to, then by whom, then other bytes. Among equals it is the earliest:
            // a later one may be the only one late enough for another request.
            // A silent end has most likely the end of a silent socket for its cause.
            let causes = outcome == Outcome::Closed && upstream.ended.is_some() && weight(carried) == 0;
            let first = Reverse((upstream.dialed, upstream.sent));
            let rank =
                (carried == Carried::SameBytes, same_remote, same_thread, weight(carried), causes, first);
            if fits && best.is_none_or(|(other, ..)| rank > other) {
                best = Some((rank, flow, carried));
            }
        }
        let best = best.map(|(_, flow, carried)| (flow, carried));
        let is_mute = best.is_none_or(|(_, carried)| carried == Carried::Nothing);
        if outcome == Outcome::Closed && is_mute {
            let failure = self.tables.upstreams.failure(sidecar.netns, connection.remote);
            let failure = failure.map(|Failure { flow, stage }| match stage {
                Stage::Dial => (flow, Carried::DialFailed),
                Stage::Open => (flow, Carried::Nothing),
                Stage::Tls => (flow, Carried::Tls),
            });
            return failure.or(best);
        }
        best
    }

    /// Of a request in pieces, more may have come since the socket was held against it.
    fn is_still_its_tunnel(&self, upstream: u64, connection: &Connection) -> bool {
        let Some(upstream) = self.tables.upstreams.get(upstream) else { return true };
        connection.opaque || passes_on(upstream.bytes.as_slice(), &connection.sent)
    }

    /// What the sidecar's thread was seen to dial for this very connection.
    fn linked(
        &self,
        connection: &Connection,
        asked: &Asked,
        outcome: Outcome,
        time: u64,
    ) -> Option<(u64, Carried)> {
        let flow = connection.dialed?;
        let is_free = |upstream: &&Upstream| upstream.claim.is_none_or(|claim| claim.by == connection.flow);
        let upstream = self.tables.upstreams.get(flow).filter(is_free)?;
        // No HTTP filter asks for a tunnel in these words, so nothing else says more.
        let is_in_tunnel = tunnelled(upstream.bytes.as_slice()).is_some();
        let is_its_own = is_in_tunnel || self.may_be_for(upstream, connection);
        if !is_its_own || upstream.sent.is_some_and(|sent| sent > time) {
            return None;
        }
        let failed = upstream.ended == Some(End::DialFailed);
        let carried = carried(&upstream.bytes, failed, &connection.sent, &asked.request)
            .or(is_in_tunnel.then_some(Carried::OtherBytes))?;
        let is_mute = matches!(carried, Carried::Nothing | Carried::DialFailed);
        match outcome {
            // An answer did not come through a socket on which nothing was sent.
            Outcome::Replied { .. } => !is_mute,
            // Perhaps the pool has failed it with the dial of another.
            Outcome::Closed => carried != Carried::Nothing || upstream.ended.is_some(),
            Outcome::GivenUp | Outcome::Pending => true,
        }
        .then_some((flow, carried))
    }

    /// Was this socket dialled for another connection than this, as the sidecar's thread has shown?
    fn is_anothers(
        &self,
        upstream: &Upstream,
        connection: &Connection,
        carried: Carried,
        outcome: Outcome,
    ) -> bool {
        let Some(reply) = upstream.link.filter(|reply| connection.reply != Some(*reply)) else {
            return false;
        };
        let other = self.tables.by_reply(reply);
        match (carried, outcome) {
            // The pool gives a socket whose connection is over to another.
            (Carried::SameBytes, _) => other
                .is_some_and(|other| !other.app_closed && passes_on(upstream.bytes.as_slice(), &other.sent)),
            // HTTP: such a link is a mistake.
            (Carried::RewrittenRequest | Carried::NoConnection, _)
            | (Carried::Nothing | Carried::DialFailed, Outcome::Replied { .. }) => false,
            // Most connections ask nothing of a proxy, and are not known.
            (Carried::Tls | Carried::OtherBytes | Carried::Nothing | Carried::DialFailed, _) => {
                other.is_none_or(|other| self.may_be_for(upstream, other))
            }
        }
    }

    /// May a socket that is linked to a connection have been dialled for it? Not if an app means the address, and that
    /// is another's; and not if it carries a request of its own.
    fn may_be_for(&self, upstream: &Upstream, connection: &Connection) -> bool {
        let bytes = upstream.bytes.as_slice();
        let is_request = head::request(bytes).head().is_some() || is_origin_form(bytes);
        (upstream.remote == connection.remote || !self.tables.is_dialed_by_app(upstream.remote))
            && (!is_request || passes_on(bytes, &connection.sent))
    }

    /// Is a socket that explains an outcome so surely this connection's that nobody else should be offered it?
    pub(super) fn is_its_own(
        &self,
        connection: &Connection,
        upstream: u64,
        carried: Carried,
        outcome: Outcome,
    ) -> bool {
        let by_bytes = matches!(carried, Carried::SameBytes | Carried::RewrittenRequest);
        let remote = self.tables.upstreams.get(upstream).map(|upstream| upstream.remote);
        match outcome {
            Outcome::Replied { .. } => by_bytes || remote == Some(connection.remote),
            Outcome::Closed => true,
            Outcome::GivenUp => by_bytes,
            Outcome::Pending => false,
        }
    }

    /// Among connections that ask the same of the same proxy, whose socket is whose cannot be told from the bytes. The
    /// one that is answered first had its bytes passed on first, so it takes the socket of one that still waits.
    fn exchange(&self, connection: &Connection, asked: &Asked, time: u64) -> Option<(u64, Carried)> {
        let netns = connection.sidecar?.netns;
        self.tables.lines.served(asked.line, netns).find_map(|flow| {
            let other = self.tables.connection(flow)?;
            let waiting = other.pending.front().filter(|waiting| !waiting.reported)?;
            let socket = other.tunnel.or(waiting.rewritten)?;
            let upstream = self.tables.upstreams.get(socket).filter(|socket| socket.sent <= Some(time))?;
            // One that was dialled for it stays with it.
            upstream.claim.filter(|claim| claim.ground != Ground::Link)?;
            let is_others = upstream.remote == other.remote && other.remote != connection.remote;
            let found = carried(&upstream.bytes, false, &connection.sent, &asked.request)?;
            let is_this = matches!(found, Carried::SameBytes | Carried::RewrittenRequest) && !is_others;
            is_this.then_some((socket, found))
        })
    }
}

/// How much it says of a socket's owner, that it carried this.
fn weight(carried: Carried) -> u8 {
    match carried {
        Carried::NoConnection | Carried::Nothing | Carried::DialFailed => 0,
        Carried::OtherBytes => 1,
        Carried::Tls => 2,
        Carried::RewrittenRequest => 3,
        Carried::SameBytes => 4,
    }
}
