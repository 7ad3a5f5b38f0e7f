//! The events of the leg on which the interceptor answers: its answers, and its end.

use super::{Answer, Engine, upstream_sockets::UpstreamSocket};
use crate::{
    event::{End, Event, EventKind},
    head::{Form, ReplyHead},
    report::Reports,
    verdict::Outcome,
};

impl Engine {
    /// Handles an event of the leg on which the sidecar answers.
    pub(super) fn reply_event(&mut self, event: &mut Event, reports: &mut Reports) {
        let has_ended = matches!(event.kind, EventKind::Ended(_));
        self.tables.upstreams.note_accepted(event.flow, event.link, has_ended, event.time);
        let Some(flow) = self.tables.answered_by(event) else {
            if has_ended {
                self.tables.keep_early_end(event);
            } else {
                self.answered_beyond(event);
            }
            return;
        };
        if let Some(remote) = self.tables.connection(flow).map(|connection| connection.remote) {
            self.tables.upstreams.note_dialed(event.flow, remote, event.time);
        }
        if let Some(dialed) = event.link {
            self.claim_by_link(dialed);
            self.tables.learn_from_failure(dialed, event.time);
            self.check_link(dialed, flow);
        }
        if let Some(connection) = self.tables.connection_mut(flow) {
            connection.shared_upstream |= event.shared_upstream;
            connection.set_up = connection.set_up.or(event.set_up);
        }
        match &mut event.kind {
            EventKind::Dialed => {}
            EventKind::Ended(_) => self.reply_ended(flow, event, reports),
            EventKind::Sent { offset, total, data } => {
                if let Some(connection) = self.tables.connection_mut(flow) {
                    connection.sidecar_sent(*offset, *total, std::mem::take(data));
                    self.tables.charge(flow);
                }
                if let Some(answer) = self.answer(flow, false) {
                    self.replied(flow, answer, event, reports);
                }
            }
        }
    }

    /// Whether a socket was dialed for no connection that is known: it has no link, or a wrong one.
    pub(super) fn is_unlinked(&self, upstream: &UpstreamSocket) -> bool {
        let linked = upstream.link.and_then(|reply| self.tables.by_reply(reply));
        upstream.link.is_none()
            || upstream.has_wrong_link
            || linked.is_some_and(|connection| !self.may_be_for(upstream, connection))
    }

    /// Notes whether a socket cannot have been dialed for the connection to which it is linked.
    fn check_link(&mut self, upstream: u64, flow: u64) {
        let linked = self.tables.upstreams.get(upstream).zip(self.tables.connection(flow));
        let is_wrong = linked.is_some_and(|(upstream, connection)| !self.may_be_for(upstream, connection));
        if is_wrong && let Some(upstream) = self.tables.upstreams.get_mut(upstream) {
            upstream.has_wrong_link = true;
        }
    }

    /// The answer to a connection's oldest request. An incomplete head counts only if `at_last`.
    pub(super) fn answer(&self, flow: u64, at_last: bool) -> Option<Answer> {
        let connection = self.tables.connection(flow)?;
        connection.pending.front()?;
        let ReplyHead { status, server, body, by_proxy } = connection.answer(at_last)?;
        Some(Answer { outcome: Outcome::Replied { status, body }, server, by_proxy })
    }

    pub(super) fn replied(&mut self, flow: u64, answer: Answer, event: &Event, reports: &mut Reports) {
        let Some(request) = self.tables.connection(flow).and_then(|connection| connection.pending.front())
        else {
            return;
        };
        let granted = request.request.form == Form::Connect
            && matches!(answer.outcome, Outcome::Replied { status: Some(200..300), .. });
        if !request.reported {
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

    pub(super) fn reply_ended(&mut self, flow: u64, event: &Event, reports: &mut Reports) {
        if let Some(answer) = self.answer(flow, true) {
            self.replied(flow, answer, event, reports);
        } else if let Some(connection) = self.tables.connection(flow) {
            // Behind an answer of its own, the sidecar discards pipelined requests: they were never handled.
            let handled = connection.answered == 0 || connection.tunnel.is_some();
            let by_app = connection.app_closed || event.kind == EventKind::Ended(End::ClosedByPeer);
            if handled {
                let outcome = if by_app { Outcome::GivenUp } else { Outcome::Closed };
                let ended = connection.gave_up.unwrap_or(event.time);
                self.report_all(flow, None, outcome, ended, reports);
            }
        }
        self.tables.remove_connection(flow);
    }

    /// Reports all requests of a connection that wait: the oldest with its `answer`, if there is one, the others with
    /// `outcome`.
    pub(super) fn report_all(
        &mut self,
        flow: u64,
        answer: Option<Answer>,
        outcome: Outcome,
        time: u64,
        reports: &mut Reports,
    ) {
        let mut answer = answer;
        let waiting = self.tables.connection(flow).map_or(0, |connection| connection.pending.len());
        for nth in 0..waiting {
            let answer = answer.take().unwrap_or_else(|| outcome.into());
            let request = self.tables.connection(flow).and_then(|connection| connection.pending.get(nth));
            if request.is_some_and(|request| !request.reported) {
                self.report(flow, nth, answer, time, reports);
            }
        }
    }
}
