//! What the interceptor of the proxy's own pod answers. The app's interceptor has passed the app's bytes on to it, so the peer of
//! the socket that it accepted is an upstream socket, and that stands in for the app: the answer is judged by what the second
//! interceptor dialed.

use super::{
    Answer, Engine, connection::Connection, matching::Search, pending_request::PendingRequest,
    upstream_sockets::UpstreamSocket,
};
use crate::{
    event::{Event, EventKind, Interception, Task},
    head::{self, Progress, ReplyHead},
    verdict::{Evidence, Judgment, Outcome, Reason, Verdict, judge},
};

/// An answer of the interceptor of the proxy's pod.
#[derive(Clone, Debug)]
pub(super) struct AnswerBeyond {
    /// Where it accepted the connection.
    pub(super) sidecar: Interception,
    /// The task that accepted it.
    pub(super) acceptor: Option<Task>,
    pub(super) evidence: Evidence,
    pub(super) judgment: Judgment,
}

impl Engine {
    /// Handles an event of an accepted socket whose peer is no app. If it is the answer of the proxy's own interceptor, it is kept
    /// with the upstream socket that it goes to, for the app's session.
    pub(super) fn answered_beyond(&mut self, event: &Event) {
        let Some((flow, answer)) = self.judge_beyond(event) else { return };
        if let Some(socket) = self.tables.upstreams.get_mut(flow) {
            // Of several answers, the latest is the one that the app gets next.
            socket.beyond = answer.map(Box::new);
        }
    }

    /// The upstream socket that an answer goes to, and the answer, if the interceptor made it.
    fn judge_beyond(&self, event: &Event) -> Option<(u64, Option<AnswerBeyond>)> {
        let EventKind::Sent { data, .. } = &event.kind else { return None };
        let Progress::Complete(reply, _) = head::reply(data) else { return None };
        let (flow, socket) = self.tables.upstreams.at_address(event.remote)?;
        // An address may exist in several network namespaces. Only where the acceptor's pod owns the dialed address is it the peer.
        if socket.remote.ip() != event.local.ip() || socket.netns == event.netns {
            return None;
        }
        let (connection, request) = stand_in(flow, socket, event)?;
        let ReplyHead { status, body, server, by_proxy } = reply;
        let answer = Answer { outcome: Outcome::Replied { status, body }, server, by_proxy };
        let search =
            Search { connection: &connection, request: &request, outcome: answer.outcome, time: event.time };
        let evidence = self.evidence(search, self.find_upstream(search), answer.by_proxy);
        // An answer to a request that it sent on in its own words may be the proxy's.
        let is_its_own = |judgment: &Judgment| {
            judgment.verdict == Verdict::HandledAsHttp && judgment.reason != Some(Reason::Forwarded)
        };
        let judgment = judge(&evidence).filter(is_its_own);
        let sidecar = connection.sidecar?;
        let found = judgment.map(|judgment| AnswerBeyond {
            sidecar,
            acceptor: connection.acceptor,
            evidence,
            judgment,
        });
        Some((flow, found))
    }
}

/// The connection of an upstream socket to the interceptor of the pod that it dialed, as that of an app, and the request on it.
fn stand_in(flow: u64, socket: &UpstreamSocket, reply: &Event) -> Option<(Connection, PendingRequest)> {
    let Progress::Complete(request, _) = head::request(socket.bytes.as_slice()) else { return None };
    let mut connection = Connection::new(reply, 0);
    connection.flow = flow;
    connection.netns = socket.netns;
    (connection.local, connection.remote) = (reply.remote, socket.remote);
    (connection.opened, connection.accepted) = (socket.dialed, reply.opened);
    (connection.task, connection.acceptor) = (socket.task.clone(), reply.task.clone());
    connection.sidecar =
        Some(Interception { port: reply.local.port(), netns: reply.netns, client_port: None });
    (connection.reply, connection.reply_seen) = (Some(reply.flow), true);
    connection.linked_upstream = reply.link;
    connection.shared_upstream = reply.shared_upstream;
    connection.app_bytes = socket.bytes.as_slice().to_vec();
    Some((connection, PendingRequest::new(request, true, socket.sent?)))
}
