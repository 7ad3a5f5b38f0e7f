//! The events of the app's leg: its requests, its end, and a dial that its own pod's redirect refused.

use super::{Engine, build_report::ReportInput, connection::Connection};
use crate::{
    event::{End, Event, EventKind},
    pod::OwnerKey,
    report::Reports,
    verdict::{Evidence, Outcome, judge},
};

impl Engine {
    /// Handles an event of the app's leg.
    pub(super) fn app_event(&mut self, event: &mut Event, reports: &mut Reports) {
        match &mut event.kind {
            EventKind::Dialed => {}
            EventKind::Ended(End::DialFailed) => self.app_refused(event, reports),
            EventKind::Ended(_) => self.app_ended(event, reports),
            EventKind::Sent { offset, total, data } => {
                let (offset, total, data) = (*offset, *total, std::mem::take(data));
                let Some(connection) = self.tables.connection_or_new(event) else { return };
                let added = connection.app_sent(event, offset, total, data);
                let (is_idle, is_direct) = (connection.is_idle(), connection.sidecar.is_none());
                self.tables.untracked += added.untracked;
                if is_idle {
                    self.tables.remove_connection(event.flow);
                    return;
                }
                self.tables.charge(event.flow);
                self.attribution.announce(OwnerKey::of(event.task.as_ref(), event.cgroup), event.time);
                if is_direct {
                    self.settle_direct(event.flow, event, false, reports);
                } else if added.tracked > 0 {
                    self.tables.wait(event.flow, event.time, added.tracked);
                    // A sidecar that refuses a connection may close it before the app has sent a byte.
                    if let Some(mut end) = self.tables.take_early_end(event.flow) {
                        self.reply_event(&mut end, reports);
                    }
                }
            }
        }
    }

    /// Handles the end of an app's leg. Where the app closed before there was an answer, that is reported now.
    pub(super) fn app_ended(&mut self, event: &Event, reports: &mut Reports) {
        let flow = event.flow;
        let Some(connection) = self.tables.connection_mut(flow) else { return };
        // After the sidecar's end, the end of its socket says what became of the request.
        let gave_up = matches!(event.kind, EventKind::Ended(End::ClosedHere | End::Reset));
        connection.app_closed = true;
        if connection.sidecar.is_none() {
            self.settle_direct(flow, event, true, reports);
        } else if gave_up && !connection.pending.is_empty() {
            connection.gave_up = Some(event.time);
            if event.kind == EventKind::Ended(End::Reset) {
                self.report_given_up(flow, reports);
            } else {
                self.tables.given_up.push(event.time, flow);
            }
        }
    }

    /// Reports the requests of a connection that its app closed before they were answered.
    pub(super) fn report_given_up(&mut self, flow: u64, reports: &mut Reports) {
        let Some(time) = self.tables.connection(flow).and_then(|connection| connection.gave_up) else {
            return;
        };
        // An answer whose head was never completed is still an answer.
        let answer = self.answer(flow, true);
        self.report_all(flow, answer, Outcome::GivenUp, time, reports);
    }

    /// Handles a dial of an app that the pod's redirect led to a port without a listener. Only addresses that apps use as
    /// proxies are of interest.
    pub(super) fn app_refused(&mut self, event: &Event, reports: &mut Reports) {
        if event.sidecar.is_none() || !self.tables.is_proxy(event.remote) {
            return;
        }
        let Some((connection, request)) = Connection::refused(event) else { return };
        let evidence = Evidence::not_accepted(request.request.form, connection.interceptor());
        let Some(judgment) = judge(&evidence) else { return };
        let key = OwnerKey::of(connection.task.as_ref(), connection.cgroup);
        let report = self.build_report(ReportInput {
            connection: &connection,
            request: &request,
            upstream: None,
            evidence: &evidence,
            beyond: None,
            judgment,
            server: None,
            time: event.time,
        });
        self.attribution.submit(key, Box::new(report), event.time, reports);
    }

    /// Reports the requests of a connection without a sidecar as soon as their heads are complete, or `at_last` as far
    /// as they have come. Their answers are not captured, and the connection's end may not be either.
    pub(super) fn settle_direct(&mut self, flow: u64, event: &Event, at_last: bool, reports: &mut Reports) {
        while let Some(request) =
            self.tables.connection(flow).and_then(|connection| connection.pending.front())
        {
            if !request.complete && !at_last {
                self.tables.wait(flow, event.time, 0);
                return;
            }
            if !request.reported {
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
}
