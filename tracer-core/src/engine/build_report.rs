//! Makes the report on a judged request out of what is known of its legs.

use std::net::SocketAddr;

use compact_str::CompactString;
use jiff::Timestamp;

use super::Engine;
use crate::{
    address,
    connection::{Asked, Connection},
    report::{self, Report},
    verdict::{Carried, Evidence, Judgement, Outcome, Verdict},
};

/// A judged request, and what is known of it.
pub(super) struct Case<'a> {
    pub(super) connection: &'a Connection,
    pub(super) asked: &'a Asked,
    /// Where the sidecar's own socket for it goes.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) evidence: &'a Evidence,
    pub(super) judgement: Judgement,
    /// `Server` of its reply, escaped.
    pub(super) server: Option<CompactString>,
    /// When it was judged.
    pub(super) time: u64,
}

impl Engine {
    pub(super) fn describe(&self, case: Case<'_>) -> Report {
        let Case { connection, asked, upstream, evidence, judgement, server, time } = case;
        let inbound = connection.sidecar.is_some_and(|s| self.settings.inbound_ports.contains(&s.port));
        let endpoint = upstream.filter(|to| *to != connection.remote);
        let subject = report::Subject {
            request: &asked.request,
            proxy: address::shown(connection.remote),
            endpoint: endpoint.map(address::shown),
            sidecar_port: connection.sidecar.map(|sidecar| sidecar.port),
            inbound,
        };
        let Judgement { verdict, reason } = judgement;
        let task = connection.task.as_ref();
        let acceptor = connection.acceptor.as_ref();
        let reply = match evidence.outcome {
            Outcome::Replied { status, .. } => Some(report::Reply {
                from: replier(verdict, evidence.upstream),
                status,
                server,
                after_us: time.saturating_sub(asked.time) / 1_000,
            }),
            Outcome::Closed | Outcome::GivenUp | Outcome::Pending => None,
        };
        Report {
            v: 1,
            time: time_of(asked.time.saturating_add(self.settings.clock_offset)),
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
            reply,
            upstream: upstream.map(|remote| report::Upstream {
                ip: remote.ip(),
                port: remote.port(),
                carried: evidence.upstream,
            }),
            evidence: report::evidence(&subject, evidence),
            explanation: report::explanation(&subject, evidence, judgement),
            listener: None,
            fix: verdict.is_flagged().then(|| Report::page(verdict)),
            manifest: None,
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

/// The time of day at so many ns since the epoch.
fn time_of(ns: u64) -> String {
    let micros = i64::try_from(ns / 1_000).unwrap_or(i64::MAX);
    report::rfc3339(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX))
}
