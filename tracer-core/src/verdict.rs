//! The verdict on one request, from the evidence alone: flat rules, each with the fact that it rests on.

mod list;

use serde::{Deserialize, Serialize};
use strum::VariantArray;

pub use self::list::{Reason, Severity, Verdict};
use crate::head::{Body, Form};

/// A verdict and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgment {
    /// What became of the request.
    pub verdict: Verdict,
    /// The cause, where the verdict has several.
    pub reason: Option<Reason>,
}

/// The facts on which a verdict rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact")]
pub struct Evidence {
    /// The form of the request.
    pub form: Form,
    /// A sidecar accepted the app's connection.
    pub intercepted: bool,
    /// How the request ended.
    pub outcome: Outcome,
    /// What the sidecar sent upstream before that.
    pub upstream: Payload,
    /// The upstream socket ended before its peer sent anything.
    pub upstream_failed: bool,
    /// No record was lost while the request waited, so a connection that was not seen was not made.
    pub nothing_lost: bool,
    /// The connection was captured from its beginning, so a dial that was not seen was not made.
    pub from_start: bool,
    /// The answer has a sign of a forward proxy that no Envoy writes. It acquits the sidecar; it never convicts.
    pub by_proxy: bool,
}

impl Evidence {
    /// Whether the answer bears a proxy's sign, although no socket was seen that could have brought it.
    pub fn is_acquitted(&self) -> bool {
        let unseen = matches!(self.upstream, Payload::NoConnection | Payload::Nothing | Payload::DialFailed);
        self.by_proxy && unseen
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sidecar's socket sent an answer.
    Replied {
        /// Its status. `None`: it is not HTTP.
        status: Option<u16>,
        /// Whether it has a body.
        body: Body,
    },
    /// The sidecar closed without an answer.
    Closed,
    /// The app closed before there was an answer.
    GivenUp,
    /// Neither happened before the deadline.
    Pending,
}

/// What the sidecar's upstream socket carried before the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, VariantArray)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// No upstream socket was seen.
    NoConnection,
    /// It was dialed and sent no byte.
    Nothing,
    /// The dial failed.
    DialFailed,
    /// Bytes that are neither the app's, nor a request, nor TLS.
    OtherBytes,
    /// A TLS record.
    Tls,
    /// The app's request, rewritten by the sidecar.
    RewrittenRequest,
    /// The app's own bytes.
    SameBytes,
}

impl From<Verdict> for Judgment {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, reason: None }
    }
}

fn handled(reason: Reason) -> Judgment {
    Judgment { verdict: Verdict::HandledAsHttp, reason: Some(reason) }
}

fn unreachable(reason: Reason) -> Judgment {
    Judgment { verdict: Verdict::Unreachable, reason: Some(reason) }
}

/// The verdict. `None`: the request is not reported, since it is an absolute-form one that was not rewritten.
pub fn judge(evidence: &Evidence) -> Option<Judgment> {
    match evidence.form {
        Form::Connect if !evidence.intercepted => Some(Verdict::Direct.into()),
        Form::Connect => Some(judge_connect(evidence)),
        Form::Absolute => is_rewritten(evidence).then(|| Verdict::AbsoluteFormRewritten.into()),
    }
}

fn judge_connect(evidence: &Evidence) -> Judgment {
    use Payload::{DialFailed, NoConnection, Nothing, OtherBytes, RewrittenRequest, SameBytes, Tls};
    match (evidence.outcome, evidence.upstream) {
        // The proxy got the app's own bytes, so the answer is the proxy's, whatever its status and `Server` header: a
        // remote Envoy's 404 is byte-identical to a local one. TLS and other protocols cannot be read; an answer after
        // them may be the proxy's (a proxy in the mesh is reached by mTLS), so nothing is flagged.
        (Outcome::Replied { status, .. }, SameBytes | Tls | OtherBytes) => passed_on(status),
        // Envoy's HTTP connection manager wrote a CONNECT of its own: names in lower case, x-request-id.
        // If that got no answer, the 503 is Envoy's own; otherwise it is the proxy's.
        (Outcome::Replied { status: Some(503), .. }, RewrittenRequest) if evidence.upstream_failed => {
            handled(Reason::UpstreamFailed)
        }
        (Outcome::Replied { .. } | Outcome::Closed, RewrittenRequest) => handled(Reason::Forwarded),
        // A 2xx before a byte went upstream is the sidecar's own: `connect_config` terminates the CONNECT, and the
        // tunnel's payload goes upstream without it.
        (Outcome::Replied { status: Some(200..300), .. }, Nothing) if evidence.nothing_lost => {
            handled(Reason::Terminated)
        }
        // A 2xx without an upstream socket: a leg was not captured, so nothing is flagged.
        (Outcome::Replied { status: Some(200..300), .. }, NoConnection | DialFailed | Nothing) => {
            Verdict::Tunneled.into()
        }
        // Envoy's HTTP listener answers in HTTP only.
        (Outcome::Replied { status: None, .. }, NoConnection | DialFailed | Nothing) => {
            Verdict::RefusedByProxy.into()
        }
        // An answer although nothing went upstream: the sidecar made it, unless it bears the sign of a proxy, whose
        // connection was then not seen: a pooled one, or one by an unknown user.
        (Outcome::Replied { status: Some(status), body }, NoConnection | DialFailed | Nothing) => {
            if evidence.nothing_lost && !evidence.is_acquitted() {
                handled(local_reply(status, body))
            } else {
                Verdict::RefusedByProxy.into()
            }
        }
        (Outcome::Closed, SameBytes | OtherBytes | Nothing) => unreachable(Reason::ClosedWithoutReply),
        (Outcome::Closed, DialFailed) => unreachable(Reason::ConnectFailed),
        (Outcome::Closed | Outcome::Pending, Tls) if evidence.nothing_lost => Verdict::WrappedInTls.into(),
        // Closed without a byte and without a dial: BlackHoleCluster, no endpoint, no cluster, no filter chain.
        (Outcome::Closed, NoConnection) if evidence.nothing_lost && evidence.from_start => {
            Verdict::Blackholed.into()
        }
        (Outcome::Closed, NoConnection | Tls)
        | (
            Outcome::GivenUp | Outcome::Pending,
            NoConnection | DialFailed | Nothing | SameBytes | RewrittenRequest | Tls | OtherBytes,
        ) => Verdict::Unanswered.into(),
    }
}

fn passed_on(status: Option<u16>) -> Judgment {
    match status {
        Some(200..300) => Verdict::Tunneled.into(),
        Some(_) | None => Verdict::RefusedByProxy.into(),
    }
}

/// The cause of each of Envoy's own answers: <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/router/router.cc>
/// (404, 503), `source/common/http/conn_manager_impl.cc` (403, 426), `source/common/http/http1/codec_impl.cc` (400,
/// 501).
fn local_reply(status: u16, body: Body) -> Reason {
    match (status, body) {
        (404, _) => Reason::RouteNotFound,
        (403, Body::Empty | Body::Unknown) => Reason::UpgradeFailed,
        // ext_authz and jwt_authn answer 401, rate limits 429.
        (403, Body::Present) | (401 | 429, _) => Reason::FilterDenied,
        (426, _) => Reason::Http10Refused,
        (400, _) => Reason::BadRequest,
        (501, _) => Reason::NotImplemented,
        (503, _) => Reason::UpstreamFailed,
        _ => Reason::OtherStatus,
    }
}

/// Whether an absolute-form request was answered although its bytes did not go upstream unchanged.
fn is_rewritten(evidence: &Evidence) -> bool {
    let answered = matches!(evidence.outcome, Outcome::Replied { status: Some(_), .. });
    let as_tcp = matches!(evidence.upstream, Payload::SameBytes | Payload::Tls | Payload::OtherBytes);
    evidence.intercepted && answered && !as_tcp && evidence.nothing_lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(outcome: Outcome, upstream: Payload) -> Evidence {
        Evidence {
            form: Form::Connect,
            intercepted: true,
            outcome,
            upstream,
            upstream_failed: false,
            nothing_lost: true,
            from_start: true,
            by_proxy: false,
        }
    }

    fn replied(status: u16) -> Outcome {
        Outcome::Replied { status: Some(status), body: Body::Empty }
    }

    #[test]
    fn proxys_own_404_is_never_flagged() {
        let judged = judge(&evidence(replied(404), Payload::SameBytes)).unwrap();
        assert_eq!(judged, Verdict::RefusedByProxy.into());
    }

    #[test]
    fn answer_with_a_proxys_sign_is_never_the_sidecars() {
        for status in [400, 403, 404, 407, 503] {
            for upstream in [Payload::NoConnection, Payload::Nothing, Payload::DialFailed] {
                let acquitted = Evidence { by_proxy: true, ..evidence(replied(status), upstream) };
                assert_eq!(judge(&acquitted), Some(Verdict::RefusedByProxy.into()), "{acquitted:?}");
            }
        }
    }

    #[test]
    fn lost_records_prevent_flags() {
        for outcome in [replied(200), replied(404), Outcome::Closed, Outcome::GivenUp, Outcome::Pending] {
            for upstream in Payload::VARIANTS.iter().copied() {
                let lossy = Evidence { nothing_lost: false, ..evidence(outcome, upstream) };
                let judged = judge(&lossy).unwrap();
                // A rewritten CONNECT was captured, whatever else was lost.
                assert!(!judged.verdict.is_flagged() || upstream == Payload::RewrittenRequest, "{lossy:?}");
            }
        }
    }

    #[test]
    fn reasons_of_local_replies_follow_from_status_and_body() {
        for (status, body, reason) in [
            (404, Body::Empty, Reason::RouteNotFound),
            (403, Body::Empty, Reason::UpgradeFailed),
            (403, Body::Present, Reason::FilterDenied),
            (426, Body::Present, Reason::Http10Refused),
            (400, Body::Present, Reason::BadRequest),
            (501, Body::Present, Reason::NotImplemented),
            (503, Body::Present, Reason::UpstreamFailed),
            (418, Body::Unknown, Reason::OtherStatus),
        ] {
            let outcome = Outcome::Replied { status: Some(status), body };
            assert_eq!(judge(&evidence(outcome, Payload::NoConnection)), Some(handled(reason)));
        }
    }

    #[test]
    fn status_503_to_a_forwarded_request_is_the_sidecars_only_if_the_upstream_failed() {
        for (upstream_failed, reason) in [(true, Reason::UpstreamFailed), (false, Reason::Forwarded)] {
            let forwarded = evidence(replied(503), Payload::RewrittenRequest);
            assert_eq!(judge(&Evidence { upstream_failed, ..forwarded }), Some(handled(reason)));
        }
    }

    #[test]
    fn verdict_on_a_closed_connection_follows_from_the_dial() {
        for (upstream, expected) in [
            (Payload::NoConnection, Verdict::Blackholed.into()),
            (Payload::DialFailed, unreachable(Reason::ConnectFailed)),
            (Payload::Nothing, unreachable(Reason::ClosedWithoutReply)),
            (Payload::SameBytes, unreachable(Reason::ClosedWithoutReply)),
            (Payload::Tls, Verdict::WrappedInTls.into()),
        ] {
            assert_eq!(judge(&evidence(Outcome::Closed, upstream)), Some(expected));
        }
    }

    #[test]
    fn absolute_form_is_reported_only_if_rewritten() {
        for upstream in Payload::VARIANTS.iter().copied() {
            let absolute = Evidence { form: Form::Absolute, ..evidence(replied(400), upstream) };
            let rewritten = matches!(
                upstream,
                Payload::NoConnection | Payload::DialFailed | Payload::Nothing | Payload::RewrittenRequest
            );
            assert_eq!(judge(&absolute).is_some(), rewritten, "{upstream:?}");
        }
    }
}
