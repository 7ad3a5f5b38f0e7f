//! Builds the report on a judged request from its connection and evidence.

use std::net::SocketAddr;

use compact_str::{CompactString, ToCompactString as _};
use jiff::Timestamp;

use super::{Engine, beyond::AnswerBeyond, connection::Connection, pending_request::PendingRequest};
use crate::{
    event::Interception,
    report::{self, Report},
    verdict::{Evidence, Judgment, Outcome, Payload, Verdict},
};

/// A judged request.
pub(super) struct ReportInput<'a> {
    pub(super) connection: &'a Connection,
    pub(super) request: &'a PendingRequest,
    /// The remote address of its upstream socket.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) evidence: &'a Evidence,
    /// The answer of the proxy's own interceptor, in place of the proxy's.
    pub(super) beyond: Option<&'a AnswerBeyond>,
    pub(super) judgment: Judgment,
    /// The answer's `Server` header, escaped.
    pub(super) server: Option<CompactString>,
    /// When it was judged.
    pub(super) time: u64,
}

impl Engine {
    pub(super) fn build_report(&self, input: ReportInput<'_>) -> Report {
        let ReportInput { connection, request, upstream, evidence, beyond, judgment, server, time } = input;
        let sidecar = beyond.map(|beyond| beyond.sidecar).or(connection.sidecar);
        let acceptor = beyond.map_or(connection.acceptor.as_ref(), |beyond| beyond.acceptor.as_ref());
        let evidence = beyond.map_or(evidence, |beyond| &beyond.evidence);
        let upstream = upstream.filter(|_| beyond.is_none());
        let inbound = sidecar.is_some_and(|s| {
            let in_another = s.netns != 0 && connection.netns != 0 && s.netns != connection.netns;
            in_another || self.settings.inbound_ports.contains(&s.port)
        });
        let endpoint = upstream.filter(|to| *to != connection.remote);
        let subject = report::Subject {
            request: &request.request,
            proxy: connection.remote.to_compact_string(),
            endpoint: endpoint.map(|endpoint| endpoint.to_compact_string()),
            sidecar_port: sidecar.map(|sidecar| sidecar.port),
            inbound,
            waited: time.saturating_sub(request.time) / 1_000,
        };
        let Judgment { verdict, reason } = judgment;
        let task = connection.task.as_ref();
        let reply = match evidence.outcome {
            Outcome::Replied { status, .. } => Some(report::Reply {
                from: replier(verdict, evidence.upstream),
                status,
                server,
                after_us: time.saturating_sub(request.time) / 1_000,
            }),
            Outcome::Closed | Outcome::GivenUp | Outcome::Pending | Outcome::NotAccepted => None,
        };
        let answered_by =
            reply.as_ref().and_then(|reply| answerer(reply.from, sidecar, connection.remote, upstream));
        Report {
            v: 1,
            time: time_of(request.time.saturating_add(self.settings.clock_offset)),
            node: self.settings.node.clone(),
            verdict,
            reason,
            flagged: verdict.is_flagged(),
            source: report::Source {
                namespace: None,
                pod: None,
                container: None,
                workload: None,
                kind: None,
                injected: None,
                owner: None,
                pid: task.map(|task| task.pid),
                comm: task.map(|task| task.comm.clone()),
                ip: connection.local.ip(),
                port: connection.local.port(),
            },
            proxy: connection.remote.into(),
            direction: if inbound { report::Direction::Inbound } else { report::Direction::Outbound },
            interceptor: sidecar.map(|sidecar| report::Interceptor {
                kind: evidence.interceptor.unwrap_or_default(),
                port: sidecar.port,
                pid: acceptor.map(|task| task.pid),
                comm: acceptor.map(|task| task.comm.clone()),
            }),
            connect: report::Connect {
                form: request.request.form,
                authority: request.request.authority.clone(),
                http_version: request.request.http_version.clone(),
                user_agent: request.request.user_agent.clone(),
            },
            reply,
            answered_by,
            upstream: upstream.map(|remote| report::Upstream {
                ip: remote.ip(),
                port: remote.port(),
                carried: evidence.upstream,
            }),
            evidence: report::evidence(&subject, evidence),
            explanation: report::explanation(&subject, evidence, judgment),
            configuration: None,
            listener: None,
            fix: verdict.is_flagged().then(|| verdict.page()),
            manifest: None,
            family: self.settings.family.clone(),
            joined_late: connection.opened.is_none(),
        }
    }
}

fn replier(verdict: Verdict, upstream: Payload) -> report::Replier {
    match (verdict, upstream) {
        (Verdict::HandledAsHttp | Verdict::AbsoluteFormRewritten, _) => report::Replier::Sidecar,
        (_, Payload::SameBytes) => report::Replier::Proxy,
        _ => report::Replier::Unknown,
    }
}

fn answerer(
    from: report::Replier,
    sidecar: Option<Interception>,
    dialed: SocketAddr,
    upstream: Option<SocketAddr>,
) -> Option<report::Answerer> {
    match from {
        report::Replier::Sidecar => {
            let port = sidecar?.port;
            Some(report::Answerer { ip: None, port, is: report::AnswererKind::Interceptor })
        }
        report::Replier::Proxy => {
            let to = upstream?;
            let is_dialed = to == dialed;
            let is = if is_dialed { report::AnswererKind::Proxy } else { report::AnswererKind::Upstream };
            Some(report::Answerer { ip: Some(to.ip()), port: to.port(), is })
        }
        report::Replier::Unknown => None,
    }
}

/// `ns` since the epoch as RFC 3339.
fn time_of(ns: u64) -> String {
    let micros = i64::try_from(ns / 1_000).unwrap_or(i64::MAX);
    report::rfc3339(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX))
}
