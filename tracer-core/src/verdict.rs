//! The verdict on one request, from the evidence alone: flat rules, each with the fact that it rests on.

mod evidence;
mod list;

pub use self::evidence::{Evidence, Outcome, Payload};
pub use self::list::{Reason, Severity, Verdict};
use crate::{
    head::{Body, Form},
    mesh_profile::InterceptorKind,
};

/// A verdict and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgment {
    /// What became of the request.
    pub verdict: Verdict,
    /// The cause, where the verdict has several.
    pub reason: Option<Reason>,
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

fn unanswered(reason: Reason) -> Judgment {
    Judgment { verdict: Verdict::Unanswered, reason: Some(reason) }
}

fn undetermined(reason: Reason) -> Judgment {
    Judgment { verdict: Verdict::Undetermined, reason: Some(reason) }
}

/// The verdict. `None`: the request is not reported, since it is an absolute-form one about which nothing is known.
pub fn judge(evidence: &Evidence) -> Option<Judgment> {
    match (evidence.form, evidence.outcome) {
        (_, Outcome::NotAccepted) => Some(Verdict::InterceptorDown.into()),
        (Form::Connect, _) if evidence.interceptor.is_none() => Some(Verdict::Direct.into()),
        (Form::Connect, _) => Some(judge_connect(evidence)),
        (Form::Absolute, _) => judge_absolute(evidence),
    }
}

#[expect(clippy::match_same_arms, reason = "each arm has a ground of its own")]
fn judge_connect(evidence: &Evidence) -> Judgment {
    use Payload::{
        DialFailed, NoConnection, Nothing, OtherBytes, OwnConnect, RewrittenRequest, SameBytes, Tls,
    };
    match (evidence.outcome, evidence.upstream) {
        (Outcome::Replied { .. } | Outcome::Closed, SameBytes | RewrittenRequest | OwnConnect)
            if evidence.upstream_in_doubt =>
        {
            undetermined(evidence.doubt().unwrap_or(Reason::LegNotSeen))
        }
        (Outcome::Replied { .. } | Outcome::Closed, OwnConnect) => undetermined(Reason::Rewritten),
        // The other side got the app's own bytes, so the answer is its own, whatever its status and `Server` header: a
        // remote Envoy's 404 is byte-identical to a local one.
        (Outcome::Replied { status, .. }, SameBytes) => passed_on(status),
        // ztunnel sends TLS only to another member of the mesh, where a waypoint may answer in place of the proxy.
        (Outcome::Replied { .. }, Tls) if evidence.interceptor == Some(InterceptorKind::Ztunnel) => {
            undetermined(Reason::BeyondZtunnel)
        }
        (Outcome::Replied { .. }, Tls) if evidence.upstream_in_doubt => {
            undetermined(if evidence.nothing_lost { Reason::SharedUpstream } else { Reason::RecordsLost })
        }
        // A proxy in the mesh is reached by mTLS, which its own sidecar takes off again.
        (Outcome::Replied { status, .. }, Tls) => passed_on(status),
        // The preface of HTTP/2 and other protocols: what they ask cannot be read.
        (Outcome::Replied { .. }, OtherBytes) => undetermined(Reason::SharedUpstream),
        // Envoy's HTTP connection manager wrote a CONNECT of its own: names in lower case, x-request-id.
        // If that got no answer, the 503 is Envoy's own; otherwise it is the proxy's.
        (Outcome::Replied { status: Some(503), .. }, RewrittenRequest) if evidence.upstream_failed => {
            handled(Reason::UpstreamFailed)
        }
        (Outcome::Replied { .. } | Outcome::Closed, RewrittenRequest) => handled(Reason::Forwarded),
        // Nothing was seen to go upstream.
        (Outcome::Replied { status, body }, NoConnection | DialFailed | Nothing) => {
            if let Some(doubt) = evidence.doubt() {
                return undetermined(doubt);
            }
            match (status, evidence.upstream) {
                // The answer came over a connection that was not seen: it has the sign of a proxy, or it is not HTTP,
                // while Envoy's HTTP listener answers in HTTP only.
                _ if evidence.by_proxy => undetermined(Reason::LegNotSeen),
                (None, _) => undetermined(Reason::LegNotSeen),
                // A 2xx before a byte went upstream is the sidecar's own: `connect_config` terminates the CONNECT, and
                // the tunnel's payload goes upstream without it.
                (Some(200..300), Nothing) => handled(Reason::Terminated),
                (Some(200..300), _) => undetermined(Reason::LegNotSeen),
                (Some(status), _) => handled(local_reply(status, body)),
            }
        }
        (Outcome::Closed, SameBytes | OtherBytes | Nothing) => unreachable(Reason::ClosedWithoutReply),
        (Outcome::Closed, DialFailed) => unreachable(Reason::ConnectFailed),
        (Outcome::Closed, Tls) if evidence.tls_established && !evidence.upstream_in_doubt => {
            unreachable(Reason::ClosedWithoutReply)
        }
        // Closed while Envoy built its filters: BlackHoleCluster, no endpoint, no cluster, no filter chain. None of them waited
        // for a connection, so what was dialed for other sessions does not matter.
        (Outcome::Closed, NoConnection)
            if evidence.was_kept == Some(false) && evidence.nothing_lost && evidence.from_start =>
        {
            Verdict::Blackholed.into()
        }
        (Outcome::Closed, Tls | NoConnection) if let Some(doubt) = evidence.doubt() => undetermined(doubt),
        (Outcome::Closed, Tls) => Verdict::WrappedInTls.into(),
        // A filter of Envoy's has waited for something that was not seen.
        (Outcome::Closed, NoConnection) if evidence.was_kept == Some(true) => {
            undetermined(Reason::LegNotSeen)
        }
        // Closed without a byte and without a dial.
        (Outcome::Closed, NoConnection) if evidence.from_start => Verdict::Blackholed.into(),
        (Outcome::Closed, NoConnection) => undetermined(Reason::LegNotSeen),
        (Outcome::Pending, Tls) if !evidence.tls_established && evidence.doubt().is_none() => {
            Verdict::WrappedInTls.into()
        }
        (Outcome::GivenUp, _) => unanswered(Reason::GaveUp),
        (Outcome::Pending | Outcome::NotAccepted, _) => unanswered(Reason::Deadline),
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

/// An absolute-form request passes where its bytes go upstream unchanged, and is flagged where the sidecar answers it
/// although they do not.
fn judge_absolute(evidence: &Evidence) -> Option<Judgment> {
    let Outcome::Replied { status, .. } = evidence.outcome else { return None };
    evidence.interceptor?;
    match evidence.upstream {
        Payload::SameBytes => Some(passed_on(status)),
        Payload::RewrittenRequest => Some(Verdict::AbsoluteFormRewritten.into()),
        Payload::NoConnection | Payload::Nothing | Payload::DialFailed => {
            let is_local = status.is_some() && !evidence.by_proxy && evidence.doubt().is_none();
            is_local.then(|| Verdict::AbsoluteFormRewritten.into())
        }
        Payload::Tls | Payload::OtherBytes | Payload::OwnConnect => None,
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray as _;

    use super::*;

    fn evidence(outcome: Outcome, upstream: Payload) -> Evidence {
        let sidecar = Some(InterceptorKind::Sidecar);
        Evidence { outcome, upstream, ..Evidence::not_accepted(Form::Connect, sidecar) }
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
                assert_eq!(judge(&acquitted), Some(undetermined(Reason::LegNotSeen)), "{acquitted:?}");
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
    fn closed_connection_that_envoy_never_kept_is_blackholed_whatever_others_dialed() {
        let closed = |was_kept| Evidence {
            was_kept: Some(was_kept),
            ..evidence(Outcome::Closed, Payload::NoConnection)
        };
        let beside = |evidence| {
            [
                Evidence { shared_upstream: true, ..evidence },
                Evidence { upstream_in_doubt: true, ..evidence },
                evidence,
            ]
        };
        for refused in beside(closed(false)) {
            assert_eq!(judge(&refused), Some(Verdict::Blackholed.into()), "{refused:?}");
        }
        for kept in beside(closed(true)) {
            assert_eq!(judge(&kept).map(|judged| judged.verdict), Some(Verdict::Undetermined), "{kept:?}");
        }
        let lost = Evidence { nothing_lost: false, ..closed(false) };
        assert_eq!(judge(&lost), Some(undetermined(Reason::RecordsLost)));
        let late = Evidence { from_start: false, ..closed(false) };
        assert_eq!(judge(&late), Some(undetermined(Reason::LegNotSeen)));
    }

    #[test]
    fn absolute_form_request_is_judged_by_what_went_upstream() {
        for upstream in Payload::VARIANTS.iter().copied() {
            let absolute = Evidence { form: Form::Absolute, ..evidence(replied(400), upstream) };
            let expected = match upstream {
                Payload::NoConnection
                | Payload::DialFailed
                | Payload::Nothing
                | Payload::RewrittenRequest => Some(Verdict::AbsoluteFormRewritten.into()),
                Payload::SameBytes => Some(Verdict::RefusedByProxy.into()),
                Payload::Tls | Payload::OtherBytes | Payload::OwnConnect => None,
            };
            assert_eq!(judge(&absolute), expected, "{upstream:?}");
        }
    }

    #[test]
    fn doubt_about_what_was_not_seen_prevents_flags() {
        let doubts = [
            Evidence { nothing_lost: false, ..evidence(replied(404), Payload::NoConnection) },
            Evidence { shared_upstream: true, ..evidence(replied(404), Payload::NoConnection) },
            Evidence {
                interceptor: Some(InterceptorKind::Ztunnel),
                ..evidence(replied(404), Payload::NoConnection)
            },
        ];
        for (doubt, reason) in
            doubts.into_iter().zip([Reason::RecordsLost, Reason::SharedUpstream, Reason::BeyondZtunnel])
        {
            for outcome in [replied(200), replied(404), replied(503)] {
                for upstream in [Payload::NoConnection, Payload::Nothing, Payload::DialFailed] {
                    let evidence = Evidence { outcome, upstream, ..doubt };
                    assert_eq!(judge(&evidence), Some(undetermined(reason)), "{evidence:?}");
                }
            }
        }
    }

    #[test]
    fn ztunnel_without_an_endpoint_is_flagged_and_its_answers_are_not() {
        let ztunnel = |outcome, upstream| {
            let interceptor = Some(InterceptorKind::Ztunnel);
            judge(&Evidence { interceptor, ..evidence(outcome, upstream) }).unwrap()
        };
        assert_eq!(ztunnel(Outcome::Closed, Payload::NoConnection), Verdict::Blackholed.into());
        assert_eq!(ztunnel(replied(403), Payload::Tls), undetermined(Reason::BeyondZtunnel));
        assert_eq!(ztunnel(replied(403), Payload::SameBytes), Verdict::RefusedByProxy.into());
    }

    #[test]
    fn peer_that_speaks_tls_is_no_plaintext_proxy() {
        let established =
            |outcome| judge(&Evidence { tls_established: true, ..evidence(outcome, Payload::Tls) }).unwrap();
        assert_eq!(established(Outcome::Closed), unreachable(Reason::ClosedWithoutReply));
        assert_eq!(established(Outcome::Pending), unanswered(Reason::Deadline));
        assert_eq!(judge(&evidence(Outcome::Pending, Payload::Tls)), Some(Verdict::WrappedInTls.into()));
    }

    #[test]
    fn answer_over_bytes_that_cannot_be_read_is_undetermined() {
        for (upstream, reason) in
            [(Payload::OtherBytes, Reason::SharedUpstream), (Payload::OwnConnect, Reason::Rewritten)]
        {
            for status in [200, 404] {
                assert_eq!(judge(&evidence(replied(status), upstream)), Some(undetermined(reason)));
            }
        }
    }

    #[test]
    fn end_without_an_answer_has_the_reason_why_there_is_none() {
        let nothing = |outcome| judge(&evidence(outcome, Payload::SameBytes)).unwrap();
        assert_eq!(nothing(Outcome::GivenUp), unanswered(Reason::GaveUp));
        assert_eq!(nothing(Outcome::Pending), unanswered(Reason::Deadline));
        assert_eq!(nothing(Outcome::NotAccepted), Verdict::InterceptorDown.into());
    }

    #[test]
    fn only_a_connection_that_was_seen_from_its_start_is_blackholed() {
        let late = Evidence { from_start: false, ..evidence(Outcome::Closed, Payload::NoConnection) };
        assert_eq!(judge(&late), Some(undetermined(Reason::LegNotSeen)));
    }
}
