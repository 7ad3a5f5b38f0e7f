//! The words of a report: the evidence, a sentence for each piece, and the one sentence that an engineer on call
//! understands without knowing Envoy. No sentence says more than was seen.

use std::net::SocketAddr;

use super::shown::shortened;
use crate::{
    head::{Body, Form, Request},
    verdict::{Carried, Evidence, Judgement, Outcome, Reason, Verdict},
};

/// What the sentences are about.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a Request,
    pub(crate) proxy: SocketAddr,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) sidecar_port: Option<u16>,
    pub(crate) inbound: bool,
}

impl Subject<'_> {
    fn whose(&self) -> &'static str {
        if self.inbound { "the proxy's own sidecar" } else { "the sidecar" }
    }

    fn whose_first(&self) -> &'static str {
        if self.inbound { "The proxy's own sidecar" } else { "The sidecar" }
    }

    fn listener(&self) -> &'static str {
        if self.inbound { "The HTTP listener of the proxy's own Envoy" } else { "Envoy's HTTP listener" }
    }

    fn asked(&self) -> String {
        let authority = shortened(&self.request.authority);
        match self.request.form {
            Form::Connect => format!("CONNECT {authority}"),
            Form::Absolute => format!("the request for http://{authority}"),
        }
    }

    /// Whom the sidecar dialled: the proxy as the app knows it, or an endpoint behind that address.
    fn dialled(&self) -> String {
        match self.upstream {
            Some(to) if to != self.proxy => format!("the proxy {} (at {to})", self.proxy),
            Some(_) | None => format!("the proxy {}", self.proxy),
        }
    }
}

/// What the verdict rests on, one sentence each.
pub(crate) fn evidence(subject: &Subject<'_>, evidence: &Evidence) -> Vec<String> {
    let proxy = subject.proxy;
    let Some(port) = subject.sidecar_port else {
        return vec![format!("the connection to {proxy} was not redirected to a sidecar")];
    };
    let whose = subject.whose();
    let mut said = Vec::new();
    said.push(match evidence.outcome {
        Outcome::Replied { .. } if subject.inbound => {
            format!("the reply came from the socket of {whose} on port {port}")
        }
        Outcome::Replied { .. } => format!("the reply came from {whose}'s socket on port {port}"),
        Outcome::Closed => format!("{whose} closed the connection without a byte"),
        Outcome::GivenUp => "the app closed the connection before there was a reply".to_owned(),
        Outcome::Pending => "there was no reply before the deadline".to_owned(),
    });
    let to = subject.upstream.unwrap_or(proxy);
    said.push(match evidence.upstream {
        Carried::NoConnection if saw_all(evidence) => format!("{whose} opened no connection to {proxy}"),
        Carried::NoConnection => format!("no connection of {whose} to {proxy} was seen"),
        Carried::DialFailed => format!("the connection of {whose} to {to} failed"),
        Carried::Nothing => {
            format!("{whose} had opened a connection to {to}, and was not seen to send anything on it")
        }
        Carried::SameBytes => format!("{whose} sent the app's own bytes to {to}"),
        Carried::RewrittenRequest => format!("{whose} sent a request in its own words to {to}"),
        Carried::Tls => format!("{whose} sent TLS to {to}; what is inside was not seen"),
        Carried::OtherBytes => format!("{whose} sent other bytes than the app's to {to}"),
    });
    if !evidence.nothing_lost {
        said.push("records were lost meanwhile, so a connection may have gone unseen".to_owned());
    }
    if !evidence.from_start {
        said.push("the connection was open before the tracer was attached".to_owned());
    }
    said
}

/// A connection that was not seen was not there. Whoever granted a CONNECT must have had one.
fn saw_all(evidence: &Evidence) -> bool {
    let granted = matches!(evidence.outcome, Outcome::Replied { status: Some(200..300), .. });
    evidence.nothing_lost && evidence.from_start && !granted
}

/// The verdict in one sentence.
pub(crate) fn explanation(subject: &Subject<'_>, evidence: &Evidence, judgement: Judgement) -> String {
    let Subject { proxy, .. } = subject;
    let (asked, dialled) = (subject.asked(), subject.dialled());
    let (whose, whose_first) = (subject.whose(), subject.whose_first());
    match judgement.verdict {
        Verdict::HandledAsHttp => handled_as_http(subject, evidence, judgement.reason),
        Verdict::Tunneled => {
            let granted = status(evidence);
            match evidence.upstream {
                Carried::SameBytes => {
                    format!(
                        "{} granted {asked} ({granted}); {whose} only passed the bytes on",
                        first(&dialled)
                    )
                }
                Carried::Tls => format!(
                    "{asked} was granted ({granted}); {whose} had sent TLS to {dialled}, so what it asked there was not seen"
                ),
                Carried::OtherBytes => format!(
                    "{asked} was granted ({granted}); {whose} had sent other bytes than the app's to {dialled}"
                ),
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::RewrittenRequest => format!(
                    "{asked} was granted ({granted}); how {whose} reached the proxy {proxy} was not seen, so nobody is blamed"
                ),
            }
        }
        Verdict::RefusedByProxy => refused(subject, evidence),
        Verdict::Blackholed => format!(
            "{whose_first} dropped {asked}: it closed the connection without a byte and never dialled the proxy {proxy}, so its configuration gives it nowhere to send what goes there"
        ),
        Verdict::WrappedInTls => {
            let since = match evidence.outcome {
                Outcome::Closed => "the connection ended without an answer",
                Outcome::Replied { .. } | Outcome::GivenUp | Outcome::Pending => "there is no answer yet",
            };
            format!(
                "{whose_first} began TLS with {dialled} where the app had sent a plaintext {asked}, and {since}"
            )
        }
        Verdict::Unreachable => match (judgement.reason, evidence.upstream) {
            (Some(Reason::ConnectFailed), _) => {
                format!("{whose_first} could not connect to {dialled}, so {asked} got no answer")
            }
            (_, Carried::SameBytes) => format!(
                "{whose_first} passed {asked} on to {dialled}, and the connection was closed without an answer"
            ),
            (
                _,
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::RewrittenRequest
                | Carried::Tls
                | Carried::OtherBytes,
            ) => format!(
                "{whose_first} connected to {dialled}, and the connection was closed without an answer to {asked}"
            ),
        },
        Verdict::Direct => {
            format!("The app sent {asked} directly to {proxy}; no sidecar took the connection")
        }
        Verdict::Unanswered => unanswered(subject, evidence),
        Verdict::AbsoluteFormRewritten => {
            let (listener, got) = (subject.listener(), status(evidence));
            match evidence.upstream {
                Carried::RewrittenRequest => format!(
                    "{listener} took {asked}, meant for the proxy {proxy}, for one of its own and sent a rewritten one to {to}; the app got {got}",
                    to = subject.upstream.unwrap_or(*proxy),
                ),
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::SameBytes
                | Carried::Tls
                | Carried::OtherBytes => format!(
                    "{listener} took {asked}, meant for the proxy {proxy}, for one of its own; the app got {got}, and the proxy did not get the request as the app wrote it"
                ),
            }
        }
    }
}

fn handled_as_http(subject: &Subject<'_>, evidence: &Evidence, reason: Option<Reason>) -> String {
    let proxy = subject.proxy;
    let (listener, asked, dialled) = (subject.listener(), subject.asked(), subject.dialled());
    let status = status(evidence);
    let nothing_sent = match evidence.upstream {
        Carried::NoConnection if saw_all(evidence) => format!("it never dialled the proxy {proxy}"),
        Carried::NoConnection => format!("it was not seen to dial the proxy {proxy}"),
        Carried::DialFailed
        | Carried::Nothing
        | Carried::SameBytes
        | Carried::RewrittenRequest
        | Carried::Tls
        | Carried::OtherBytes => format!("it sent nothing of it to the proxy {proxy}"),
    };
    match (reason, evidence.upstream) {
        (Some(Reason::Forwarded | Reason::UpstreamFailed), Carried::RewrittenRequest) => {
            let then = match evidence.outcome {
                Outcome::Replied { .. } => format!("the app got {status}"),
                Outcome::Closed | Outcome::GivenUp | Outcome::Pending => "the app got no answer".to_owned(),
            };
            format!(
                "{listener} took {asked} for a request of its own and sent a rewritten one to {dialled}; {then}"
            )
        }
        (Some(Reason::Terminated), _) => format!(
            "{listener} itself granted {asked} ({status}) and had sent no CONNECT to {dialled}, so the proxy cannot know where the tunnel should go"
        ),
        (Some(Reason::UpstreamFailed), Carried::DialFailed) => format!(
            "{listener} answered {status} to {asked}: it took it for a request of its own, and could not connect to {dialled}"
        ),
        (Some(Reason::UpstreamFailed), _) => format!(
            "{listener} answered {status} to {asked}: it took it for a request of its own, and {nothing_sent}"
        ),
        (Some(Reason::UpgradeFailed), _) => {
            let body = match evidence.outcome {
                Outcome::Replied { body: Body::Empty, .. } => " without a body",
                Outcome::Replied { .. } | Outcome::Closed | Outcome::GivenUp | Outcome::Pending => "",
            };
            format!(
                "{listener} answered {status}{body} to {asked}, as it does where it has a route for CONNECT but may not use it; {nothing_sent}"
            )
        }
        (Some(Reason::FilterDenied), _) => format!(
            "{listener} answered {status} to {asked}, most likely by an access rule or a limit in one of its filters; {nothing_sent}"
        ),
        (Some(Reason::Http10Refused), _) => format!(
            "{listener} answered {status} to {asked}, which came as HTTP/{version}: it wants a newer one; {nothing_sent}",
            version = subject.request.http_version,
        ),
        (Some(Reason::BadRequest), _) => {
            format!(
                "{listener} answered {status} to {asked}: to it, that is no valid request; {nothing_sent}"
            )
        }
        (Some(Reason::NotImplemented), _) => format!(
            "{listener} answered {status} to {asked}: it does not support what the request asks for; {nothing_sent}"
        ),
        (
            Some(
                Reason::RouteNotFound
                | Reason::OtherStatus
                | Reason::Forwarded
                | Reason::ConnectFailed
                | Reason::ClosedWithoutReply,
            )
            | None,
            _,
        ) => format!("{listener} answered {status} to {asked}; {nothing_sent}"),
    }
}

fn refused(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let (asked, dialled, whose) = (subject.asked(), subject.dialled(), subject.whose());
    let status = status(evidence);
    match evidence.upstream {
        Carried::SameBytes => format!(
            "{} itself answered {status} to {asked}; {whose} only passed the bytes on and is not at fault",
            first(&dialled)
        ),
        Carried::Tls => format!(
            "The app got {status} for {asked}; {whose} had sent TLS to {dialled}, which cannot be read, so nobody is blamed"
        ),
        Carried::OtherBytes => format!(
            "The app got {status} for {asked}; {whose} had sent other bytes than the app's to {dialled}, so nobody is blamed"
        ),
        Carried::NoConnection | Carried::DialFailed | Carried::Nothing | Carried::RewrittenRequest => {
            format!(
                "The app got {status} for {asked}; whether {whose} or the proxy {proxy} made it was not seen, so nobody is blamed",
                proxy = subject.proxy,
            )
        }
    }
}

fn unanswered(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let proxy = subject.proxy;
    let (asked, dialled, whose) = (subject.asked(), subject.dialled(), subject.whose_first());
    match (evidence.outcome, evidence.upstream) {
        (Outcome::GivenUp, Carried::SameBytes) => format!(
            "The app closed the connection before {dialled} had answered {asked}, which {whose} had passed on",
            whose = subject.whose(),
        ),
        (Outcome::GivenUp, _) => {
            format!("The app closed the connection to {proxy} before {asked} was answered")
        }
        (Outcome::Closed, _) => format!(
            "{whose} closed the connection to {proxy} without an answer to {asked}; not all that it did before was seen, so nobody is blamed"
        ),
        (_, Carried::SameBytes) => {
            format!("{whose} passed {asked} on to {dialled}, which has not answered yet")
        }
        (_, Carried::RewrittenRequest) => format!(
            "{} took {asked} for a request of its own and sent a rewritten one to {dialled}, which has not answered yet",
            subject.listener(),
        ),
        (_, Carried::DialFailed) => {
            format!("{whose} could not connect to {dialled}, and {asked} has no answer yet")
        }
        (_, Carried::Nothing) => {
            format!(
                "{whose} has dialled {dialled} and was not seen to send anything there; {asked} has no answer yet"
            )
        }
        (_, Carried::Tls | Carried::OtherBytes) => {
            format!("{whose} has not passed {asked} on to {dialled} as it was, and there is no answer yet")
        }
        (_, Carried::NoConnection) => {
            format!("{whose} has neither answered {asked} nor been seen to dial the proxy {proxy}")
        }
    }
}

/// What the app got.
fn status(evidence: &Evidence) -> String {
    match evidence.outcome {
        Outcome::Replied { status: Some(status), .. } => status.to_string(),
        Outcome::Replied { status: None, .. } => "something that is not HTTP".to_owned(),
        Outcome::Closed | Outcome::GivenUp | Outcome::Pending => "no answer".to_owned(),
    }
}

/// At the beginning of a sentence.
fn first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
