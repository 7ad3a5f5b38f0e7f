//! The verdict on one request, from the evidence on its sockets and nothing else: flat rules, each with what it
//! rests on. It sees neither sockets nor clocks.

mod list;

use serde::{Deserialize, Serialize};

pub use self::list::{Reason, Verdict};
use crate::head::{Body, Form};

/// A verdict and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Option<Reason>,
}

/// All that a verdict rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Evidence {
    /// What was asked.
    pub form: Form,
    /// A sidecar accepted the app's connection.
    pub intercepted: bool,
    /// How it came out.
    pub outcome: Outcome,
    /// What the sidecar did upstream, before that.
    pub upstream: Carried,
    /// That socket had ended before its peer sent anything.
    pub upstream_failed: bool,
    /// No record was lost while the request was under way: what was not seen did not happen.
    pub nothing_lost: bool,
    /// The connection was seen from its beginning: a dial that was not seen did not happen.
    pub from_start: bool,
}

/// How a request came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sidecar's socket sent an answer.
    Replied {
        /// Its status; `None`: not HTTP.
        status: Option<u16>,
        /// Its body.
        body: Body,
    },
    /// The sidecar closed without an answer.
    Closed,
    /// The app closed before there was an answer.
    GivenUp,
    /// Neither happened before the deadline.
    Pending,
}

/// What the sidecar's own socket did before the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    /// There was no such socket.
    NoConnection,
    /// A dial, and no byte.
    Nothing,
    /// A dial that failed.
    DialFailed,
    /// Something else.
    OtherBytes,
    /// A TLS record.
    Tls,
    /// A request for the same, in the sidecar's own words.
    RewrittenRequest,
    /// The very bytes that the app sent.
    SameBytes,
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, reason: None }
    }
}

fn handled(reason: Reason) -> Judgement {
    Judgement { verdict: Verdict::HandledAsHttp, reason: Some(reason) }
}

fn unreachable(reason: Reason) -> Judgement {
    Judgement { verdict: Verdict::Unreachable, reason: Some(reason) }
}

/// The verdict, or `None` where there is nothing to say: an absolute-form request that was not rewritten.
pub fn judge(evidence: &Evidence) -> Option<Judgement> {
    match evidence.form {
        Form::Connect if !evidence.intercepted => Some(Verdict::Direct.into()),
        Form::Connect => Some(judge_connect(evidence)),
        Form::Absolute => is_rewritten(evidence).then(|| Verdict::AbsoluteFormRewritten.into()),
    }
}

fn judge_connect(evidence: &Evidence) -> Judgement {
    use Carried::{DialFailed, NoConnection, Nothing, OtherBytes, RewrittenRequest, SameBytes, Tls};
    match (evidence.outcome, evidence.upstream) {
        // The proxy got the app's own bytes, so the answer is the proxy's, whatever it says and whatever it calls
        // itself: a remote Envoy's 404 is byte-identical to a local one. What TLS or another protocol carried cannot be
        // read; an answer that came after it may be the proxy's (a proxy inside the mesh is spoken to in mTLS), and
        // nobody is blamed for what was not seen.
        (Outcome::Replied { status, .. }, SameBytes | Tls | OtherBytes) => proxys_own(status),
        // Envoy's HTTP connection manager wrote a CONNECT of its own: names in lower case, x-request-id.
        // If nobody answered that, the 503 is Envoy's own; else it is the proxy's.
        (Outcome::Replied { status: Some(503), .. }, RewrittenRequest) if evidence.upstream_failed => {
            handled(Reason::UpstreamFailed)
        }
        (Outcome::Replied { .. } | Outcome::Closed, RewrittenRequest) => handled(Reason::Forwarded),
        // A 2xx before a byte went upstream is the sidecar's own: it dialled (`connect_config` makes it), and will
        // send what is inside the tunnel.
        (Outcome::Replied { status: Some(200..300), .. }, Nothing) if evidence.nothing_lost => {
            handled(Reason::Terminated)
        }
        // A 2xx and no sign of an upstream: a leg is missing, so nobody is blamed.
        (Outcome::Replied { status: Some(200..300), .. }, NoConnection | DialFailed | Nothing) => {
            Verdict::Tunneled.into()
        }
        // An answer that is not HTTP is none of Envoy's HTTP listener.
        (Outcome::Replied { status: None, .. }, NoConnection | DialFailed | Nothing) => {
            Verdict::RefusedByProxy.into()
        }
        // An answer, and nothing went upstream: the sidecar made it.
        (Outcome::Replied { status: Some(status), body }, NoConnection | DialFailed | Nothing) => {
            if evidence.nothing_lost {
                handled(local_reply(status, body))
            } else {
                Verdict::RefusedByProxy.into()
            }
        }
        (Outcome::Closed, SameBytes | OtherBytes | Nothing) => unreachable(Reason::ClosedWithoutReply),
        (Outcome::Closed, DialFailed) => unreachable(Reason::ConnectFailed),
        (Outcome::Closed | Outcome::Pending, Tls) if evidence.nothing_lost => Verdict::WrappedInTls.into(),
        // Closed without a byte, and it never dialled: BlackHoleCluster, no endpoint, no cluster, no filter chain.
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

fn proxys_own(status: Option<u16>) -> Judgement {
    match status {
        Some(200..300) => Verdict::Tunneled.into(),
        Some(_) | None => Verdict::RefusedByProxy.into(),
    }
}

/// What Envoy's own answers mean: <https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/router/router.cc>
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

/// An absolute-form request that was answered although its bytes did not go upstream as they were.
fn is_rewritten(evidence: &Evidence) -> bool {
    let answered = matches!(evidence.outcome, Outcome::Replied { status: Some(_), .. });
    let as_tcp = matches!(evidence.upstream, Carried::SameBytes | Carried::Tls | Carried::OtherBytes);
    evidence.intercepted && answered && !as_tcp && evidence.nothing_lost
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_UPSTREAM: [Carried; 7] = [
        Carried::NoConnection,
        Carried::DialFailed,
        Carried::Nothing,
        Carried::SameBytes,
        Carried::RewrittenRequest,
        Carried::Tls,
        Carried::OtherBytes,
    ];

    fn evidence(outcome: Outcome, upstream: Carried) -> Evidence {
        Evidence {
            form: Form::Connect,
            intercepted: true,
            outcome,
            upstream,
            upstream_failed: false,
            nothing_lost: true,
            from_start: true,
        }
    }

    fn replied(status: u16) -> Outcome {
        Outcome::Replied { status: Some(status), body: Body::Empty }
    }

    #[test]
    fn a_proxys_404_is_never_flagged_however_it_looks() {
        let judged = judge(&evidence(replied(404), Carried::SameBytes)).unwrap();
        assert_eq!(judged, Verdict::RefusedByProxy.into());
    }

    #[test]
    fn nobody_is_blamed_for_what_was_lost() {
        for outcome in [replied(200), replied(404), Outcome::Closed, Outcome::GivenUp, Outcome::Pending] {
            for upstream in EVERY_UPSTREAM {
                let lossy = Evidence { nothing_lost: false, ..evidence(outcome, upstream) };
                let judged = judge(&lossy).unwrap();
                // A rewritten CONNECT was seen, whatever else was lost.
                assert!(!judged.verdict.is_flagged() || upstream == Carried::RewrittenRequest, "{lossy:?}");
            }
        }
    }

    #[test]
    fn local_replies_are_told_apart() {
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
            assert_eq!(judge(&evidence(outcome, Carried::NoConnection)), Some(handled(reason)));
        }
    }

    #[test]
    fn a_503_to_a_forwarded_request_is_whose_the_upstream_says() {
        for (upstream_failed, reason) in [(true, Reason::UpstreamFailed), (false, Reason::Forwarded)] {
            let forwarded = evidence(replied(503), Carried::RewrittenRequest);
            assert_eq!(judge(&Evidence { upstream_failed, ..forwarded }), Some(handled(reason)));
        }
    }

    #[test]
    fn silence_is_told_apart_by_the_dial() {
        for (upstream, expected) in [
            (Carried::NoConnection, Verdict::Blackholed.into()),
            (Carried::DialFailed, unreachable(Reason::ConnectFailed)),
            (Carried::Nothing, unreachable(Reason::ClosedWithoutReply)),
            (Carried::SameBytes, unreachable(Reason::ClosedWithoutReply)),
            (Carried::Tls, Verdict::WrappedInTls.into()),
        ] {
            assert_eq!(judge(&evidence(Outcome::Closed, upstream)), Some(expected));
        }
    }

    #[test]
    fn absolute_form_is_reported_only_when_rewritten() {
        for upstream in EVERY_UPSTREAM {
            let absolute = Evidence { form: Form::Absolute, ..evidence(replied(400), upstream) };
            let rewritten = matches!(
                upstream,
                Carried::NoConnection | Carried::DialFailed | Carried::Nothing | Carried::RewrittenRequest
            );
            assert_eq!(judge(&absolute).is_some(), rewritten, "{upstream:?}");
        }
    }
}
