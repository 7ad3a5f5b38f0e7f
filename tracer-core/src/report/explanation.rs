//! The sentence that explains a verdict to an engineer on call who does not know Envoy. It says no more than was seen.

use super::{
    evidence::saw_all,
    subject::{Status, Subject},
    text::duration,
};
use crate::{
    head::Body,
    verdict::{Evidence, Judgment, Outcome, Payload, Reason, Verdict},
};

/// The verdict in one sentence.
pub(crate) fn explanation(subject: &Subject<'_>, evidence: &Evidence, judgment: Judgment) -> String {
    let Subject { proxy, .. } = subject;
    let (asked, dialed) = (subject.asked(), subject.dialed());
    let (sidecar, sidecar_first) = (subject.sidecar(), subject.sidecar_first());
    match judgment.verdict {
        Verdict::HandledAsHttp => handled_as_http(subject, evidence, judgment.reason),
        Verdict::Tunneled => {
            let granted = Status(evidence.outcome);
            match evidence.upstream {
                Payload::SameBytes => {
                    format!(
                        "{} granted {asked} ({granted}); {sidecar} only passed the bytes on",
                        subject.dialed_first()
                    )
                }
                Payload::Tls => {
                    format!(
                        "{asked} was granted ({granted}); {sidecar} had sent TLS to {dialed}, so what it asked there was not seen"
                    )
                }
                Payload::NoConnection
                | Payload::DialFailed
                | Payload::Nothing
                | Payload::OtherBytes
                | Payload::OwnConnect
                | Payload::RewrittenRequest => {
                    format!("{asked} to the proxy {proxy} was granted ({granted})")
                }
            }
        }
        Verdict::RefusedByProxy => refused(subject, evidence),
        Verdict::Blackholed => {
            format!(
                "{sidecar_first} dropped {asked}: it closed the connection without a byte and never dialed the proxy {proxy}, so its configuration gives it nowhere to send what goes there"
            )
        }
        Verdict::WrappedInTls => {
            let since = match evidence.outcome {
                Outcome::Closed => "the connection ended without an answer",
                Outcome::Replied { .. } | Outcome::GivenUp | Outcome::Pending | Outcome::NotAccepted => {
                    "there is no answer yet"
                }
            };
            format!(
                "{sidecar_first} began TLS with {dialed} where the app had sent a plaintext {asked}, and {since}"
            )
        }
        Verdict::Unreachable => match (judgment.reason, evidence.upstream) {
            (Some(Reason::ConnectFailed), _) => {
                format!("{sidecar_first} could not connect to {dialed}, so {asked} got no answer")
            }
            (_, Payload::SameBytes) => {
                format!(
                    "{sidecar_first} passed {asked} on to {dialed}, and the connection was closed without an answer"
                )
            }
            (
                _,
                Payload::NoConnection
                | Payload::DialFailed
                | Payload::Nothing
                | Payload::RewrittenRequest
                | Payload::OwnConnect
                | Payload::Tls
                | Payload::OtherBytes,
            ) => {
                format!(
                    "{sidecar_first} connected to {dialed}, and the connection was closed without an answer to {asked}"
                )
            }
        },
        Verdict::Direct => {
            format!("The app sent {asked} directly to {proxy}; no sidecar took the connection")
        }
        Verdict::Misdirected => misdirected(subject, evidence),
        Verdict::InterceptorDown => {
            let port = subject.sidecar_port.unwrap_or_default();
            format!(
                "The pod redirects its connections to port {port}, where no process accepts them, so the app cannot reach the proxy {proxy}"
            )
        }
        Verdict::Unanswered => unanswered(subject, evidence),
        Verdict::Undetermined => undetermined(subject, evidence, judgment.reason),
        Verdict::AbsoluteFormRewritten => {
            let (listener, got) = (subject.listener(), Status(evidence.outcome));
            match evidence.upstream {
                Payload::RewrittenRequest => {
                    format!(
                        "{listener} took {asked}, meant for the proxy {proxy}, for one of its own and sent a rewritten one to {}; the app got {got}",
                        subject.dialed_address()
                    )
                }
                Payload::NoConnection
                | Payload::DialFailed
                | Payload::Nothing
                | Payload::SameBytes
                | Payload::OwnConnect
                | Payload::Tls
                | Payload::OtherBytes => {
                    format!(
                        "{listener} took {asked}, meant for the proxy {proxy}, for one of its own; the app got {got}, and the proxy did not get the request as the app wrote it"
                    )
                }
            }
        }
    }
}

fn handled_as_http(subject: &Subject<'_>, evidence: &Evidence, reason: Option<Reason>) -> String {
    let proxy = &subject.proxy;
    let (listener, asked, dialed) = (subject.listener(), subject.asked(), subject.dialed());
    let status = Status(evidence.outcome);
    let nothing = match evidence.upstream {
        Payload::NoConnection if saw_all(evidence) => "it never dialed",
        Payload::NoConnection => "it was not seen to dial",
        Payload::DialFailed
        | Payload::Nothing
        | Payload::SameBytes
        | Payload::OwnConnect
        | Payload::RewrittenRequest
        | Payload::Tls
        | Payload::OtherBytes => "it sent nothing of it to",
    };
    let nothing_sent = format!("{nothing} the proxy {proxy}");
    match (reason, evidence.upstream) {
        (Some(Reason::Forwarded | Reason::UpstreamFailed), Payload::RewrittenRequest) => {
            format!(
                "{listener} took {asked} for a request of its own and sent a rewritten one to {dialed}; the app got {status}"
            )
        }
        (Some(Reason::Terminated), _) => {
            format!(
                "{listener} itself granted {asked} ({status}) and had sent no CONNECT to {dialed}, so the proxy cannot know where the tunnel should go"
            )
        }
        (Some(Reason::UpstreamFailed), Payload::DialFailed) => {
            format!(
                "{listener} answered {status} to {asked}: it took it for a request of its own, and could not connect to {dialed}"
            )
        }
        (Some(Reason::UpstreamFailed), _) => {
            format!(
                "{listener} answered {status} to {asked}: it took it for a request of its own, and {nothing_sent}"
            )
        }
        (Some(Reason::UpgradeFailed), _) => {
            let body = match evidence.outcome {
                Outcome::Replied { body: Body::Empty, .. } => " without a body",
                Outcome::Replied { .. }
                | Outcome::Closed
                | Outcome::GivenUp
                | Outcome::Pending
                | Outcome::NotAccepted => "",
            };
            format!(
                "{listener} answered {status}{body} to {asked}, as it does where it has a route for CONNECT but may not use it; {nothing_sent}"
            )
        }
        (Some(Reason::FilterDenied), _) => {
            format!(
                "{listener} answered {status} to {asked}, most likely by an access rule or a limit in one of its filters; {nothing_sent}"
            )
        }
        (Some(Reason::Http10Refused), _) => {
            format!(
                "{listener} answered {status} to {asked}, which came as HTTP/{}: it wants a newer one; {nothing_sent}",
                subject.request.http_version
            )
        }
        (Some(Reason::BadRequest), _) => {
            format!(
                "{listener} answered {status} to {asked}: to it, that is no valid request; {nothing_sent}"
            )
        }
        (Some(Reason::NotImplemented), _) => {
            format!(
                "{listener} answered {status} to {asked}: it does not support what the request asks for; {nothing_sent}"
            )
        }
        _ => format!("{listener} answered {status} to {asked}; {nothing_sent}"),
    }
}

fn refused(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let (asked, dialed, sidecar) = (subject.asked(), subject.dialed(), subject.sidecar());
    let status = Status(evidence.outcome);
    match evidence.upstream {
        Payload::Tls => {
            format!(
                "The app got {status} for {asked}; {sidecar} had sent TLS to {dialed}, which cannot be read, so neither side is blamed"
            )
        }
        Payload::SameBytes
        | Payload::NoConnection
        | Payload::DialFailed
        | Payload::Nothing
        | Payload::OtherBytes
        | Payload::OwnConnect
        | Payload::RewrittenRequest => {
            format!(
                "{} itself answered {status} to {asked}; {sidecar} only passed the bytes on and is not at fault",
                subject.dialed_first()
            )
        }
    }
}

/// The address is named by the configuration, which adds to this sentence.
fn misdirected(subject: &Subject<'_>, evidence: &Evidence) -> String {
    format!(
        "{} passed {} for the proxy {} on to {}, which is no address of that proxy; the app got {}",
        subject.sidecar_first(),
        subject.asked(),
        subject.proxy,
        subject.dialed_address(),
        Status(evidence.outcome)
    )
}

fn undetermined(subject: &Subject<'_>, evidence: &Evidence, reason: Option<Reason>) -> String {
    let (proxy, sidecar) = (&subject.proxy, subject.sidecar());
    let (asked, status) = (subject.asked(), Status(evidence.outcome));
    let got = match evidence.outcome {
        Outcome::Replied { .. } => format!("The app got {status} for {asked}"),
        Outcome::Closed | Outcome::GivenUp | Outcome::Pending | Outcome::NotAccepted => {
            format!("The connection was closed without an answer to {asked}")
        }
    };
    match reason {
        Some(Reason::RecordsLost) => {
            format!(
                "{got}; records were lost meanwhile, so whether {sidecar} or the proxy {proxy} caused it is not known, and neither side is blamed"
            )
        }
        Some(Reason::SharedUpstream) => {
            format!(
                "{got}; it may have come through a connection that {sidecar} shares between sessions, so whether the proxy {proxy} caused it is not known, and neither side is blamed"
            )
        }
        Some(Reason::BeyondZtunnel) => {
            format!(
                "{got}, which came through ztunnel; whether a waypoint or the proxy {proxy} made it cannot be seen on this node, so neither side is blamed"
            )
        }
        Some(Reason::Rewritten) => {
            format!(
                "{got}; {sidecar} had sent a CONNECT of its own to {}, as its configuration tells it to, and the app's behind it, so which side answered is not known, and neither side is blamed",
                subject.dialed()
            )
        }
        Some(Reason::WitnessesDisagree) => {
            format!(
                "{got}; what was captured and the configuration of {sidecar} contradict each other on the proxy {proxy}, so neither side is blamed"
            )
        }
        _ if evidence.is_acquitted() => {
            format!(
                "{got}, with a sign of a forward proxy in it that no sidecar writes; how {sidecar} reached the proxy {proxy} was not seen, so neither side is blamed"
            )
        }
        _ => {
            format!(
                "{got}; how {sidecar} reached the proxy {proxy}, if it did, was not seen, so neither side is blamed"
            )
        }
    }
}

fn unanswered(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let proxy = &subject.proxy;
    let (asked, dialed, sidecar) = (subject.asked(), subject.dialed(), subject.sidecar_first());
    match (evidence.outcome, evidence.upstream) {
        (Outcome::GivenUp, Payload::SameBytes) => {
            format!(
                "The app gave up after {} and closed the connection before {dialed} had answered {asked}, which {} had passed on",
                duration(subject.waited),
                subject.sidecar()
            )
        }
        (Outcome::GivenUp, _) => {
            format!(
                "The app gave up after {} and closed the connection to {proxy} before {asked} was answered",
                duration(subject.waited)
            )
        }
        (_, Payload::SameBytes) => {
            format!("{sidecar} passed {asked} on to {dialed}, which has not answered yet")
        }
        (_, Payload::RewrittenRequest) => {
            format!(
                "{} took {asked} for a request of its own and sent a rewritten one to {dialed}, which has not answered yet",
                subject.listener()
            )
        }
        (_, Payload::DialFailed) => {
            format!("{sidecar} could not connect to {dialed}, and {asked} has no answer yet")
        }
        (_, Payload::Nothing) => {
            format!(
                "{sidecar} has dialed {dialed} and was not seen to send anything there; {asked} has no answer yet"
            )
        }
        (_, Payload::Tls | Payload::OtherBytes | Payload::OwnConnect) => {
            format!("{sidecar} has not passed {asked} on to {dialed} as it was, and there is no answer yet")
        }
        (_, Payload::NoConnection) => {
            format!("{sidecar} has neither answered {asked} nor been seen to dial the proxy {proxy}")
        }
    }
}
