//! The result of a session in a few words, which its line begins with: `✗ 404 by sidecar`.

use super::{AnswererKind, Direction, Report};
use crate::{
    mesh_profile::InterceptorKind,
    verdict::{Reason, Severity, Verdict},
};

impl Severity {
    /// The mark before a result: a fault of the sidecar's configuration, a failure that is none, nothing.
    pub fn mark(self) -> char {
        match self {
            Self::Flagged => '✗',
            Self::Doubtful => '!',
            Self::Good => ' ',
        }
    }
}

impl Report {
    /// The result with its mark: `✗ 404 by sidecar`, `! 403 by proxy`, `  200 by proxy`.
    pub fn result(&self) -> String {
        format!("{} {}", self.verdict.severity().mark(), self.result_words())
    }

    /// What came of it, and which side caused that.
    fn result_words(&self) -> String {
        let interceptor = self.interceptor_name();
        let status = self.reply.as_ref().map(|_| self.status());
        let by = |who: &str| match &status {
            Some(status) => format!("{status} by {who}"),
            None => format!("closed by {who}"),
        };
        match self.verdict {
            Verdict::HandledAsHttp => by(interceptor),
            Verdict::Blackholed => format!("closed by {interceptor}"),
            Verdict::WrappedInTls => format!("TLS added by {interceptor}"),
            Verdict::Misdirected => "sent elsewhere".to_owned(),
            Verdict::InterceptorDown => format!("{interceptor} is down"),
            Verdict::AbsoluteFormRewritten => format!("rewritten by {interceptor}"),
            Verdict::Tunneled | Verdict::RefusedByProxy => by(self.answerer_name()),
            Verdict::Unreachable => match self.reason {
                Some(Reason::ConnectFailed) => "proxy unreachable".to_owned(),
                _ => "closed by proxy".to_owned(),
            },
            Verdict::Unanswered => match self.reason {
                Some(Reason::GaveUp) => "no answer, gave up".to_owned(),
                _ => "no answer".to_owned(),
            },
            Verdict::Undetermined => match &status {
                Some(status) => format!("{status}, origin unclear"),
                None => "closed, cause unclear".to_owned(),
            },
            Verdict::Direct => match &status {
                Some(status) => format!("{status}, no sidecar"),
                None => "no sidecar".to_owned(),
            },
        }
    }

    fn interceptor_name(&self) -> &'static str {
        let kind = self.interceptor.as_ref().map(|interceptor| interceptor.kind).unwrap_or_default();
        match (kind, self.direction) {
            (InterceptorKind::Sidecar, Direction::Outbound) => "sidecar",
            (InterceptorKind::Sidecar, Direction::Inbound) => "proxy's sidecar",
            (InterceptorKind::Ztunnel, _) => "ztunnel",
            (InterceptorKind::Linkerd, _) => "linkerd",
            (InterceptorKind::Other, _) => "interceptor",
        }
    }

    /// Another address than the dialed one is the proxy's only where its Service says so, which a report does not know.
    fn answerer_name(&self) -> &'static str {
        match self.answered_by.as_ref().map(|by| by.is) {
            Some(AnswererKind::Upstream) => "upstream",
            Some(AnswererKind::Interceptor | AnswererKind::Proxy) | None => "proxy",
        }
    }
}
