//! Which of the sidecar's own sockets belongs to which request. By the bytes it carried where it carried any; else by
//! when, where to and by which thread it was dialled.

use super::Core;
use crate::{
    event::End,
    head,
    session::{Asked, Connection, carried, is_envoys_own, request_line},
    verdict::{Carried, Outcome},
};

impl Core {
    /// Finds the session of an upstream socket by the request that it carries.
    pub(super) fn claim(&mut self, upstream_flow: u64) {
        let Some(upstream) = self.tables.upstreams.get(upstream_flow) else { return };
        let Some(request) = head::request(upstream.bytes.as_slice()).head() else { return };
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
    pub(super) fn find_upstream(
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
}
