//! The words of a report: the evidence, a sentence for each piece, and the one sentence that an engineer on call
//! understands without knowing Envoy.

use std::net::SocketAddr;

use crate::{
    head::{Form, Request},
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

/// What the verdict rests on, one sentence each.
pub(crate) fn evidence(subject: &Subject<'_>, evidence: &Evidence) -> Vec<String> {
    let proxy = subject.proxy;
    let Some(port) = subject.sidecar_port else {
        return vec![format!("the connection to {proxy} was not redirected to a sidecar")];
    };
    let mut said = Vec::new();
    said.push(match evidence.outcome {
        Outcome::Replied { .. } => format!("the reply came from the sidecar's socket on port {port}"),
        Outcome::Closed => "the sidecar closed the connection without a byte".to_owned(),
        Outcome::GivenUp => "the app closed the connection before there was a reply".to_owned(),
        Outcome::Pending => "no reply before the deadline".to_owned(),
    });
    let to = subject.upstream.unwrap_or(proxy);
    said.push(match evidence.upstream {
        Carried::NoConnection => format!("the sidecar opened no connection to {proxy}"),
        Carried::DialFailed => format!("the sidecar's connection to {to} failed"),
        Carried::Nothing => format!("the sidecar opened a connection to {to} and had sent nothing on it"),
        Carried::SameBytes => format!("the sidecar sent the app's own bytes to {to}"),
        Carried::RewrittenRequest => format!("the sidecar sent a request in its own words to {to}"),
        Carried::Tls => format!("the sidecar sent TLS to {to}; what is inside was not seen"),
        Carried::OtherBytes => format!("the sidecar sent other bytes than the app's to {to}"),
    });
    if !evidence.nothing_lost {
        said.push("records were lost meanwhile, so a connection may have gone unseen".to_owned());
    }
    if !evidence.from_start {
        said.push("the connection was open before the tracer was attached".to_owned());
    }
    said
}

/// The verdict in one sentence.
pub(crate) fn explanation(subject: &Subject<'_>, evidence: &Evidence, judgement: Judgement) -> String {
    let Subject { request, proxy, .. } = subject;
    let asked = match request.form {
        Form::Connect => format!("CONNECT {}", request.authority),
        Form::Absolute => format!("the request for http://{}", request.authority),
    };
    let whose = if subject.inbound { "the proxy's own sidecar" } else { "the sidecar" };
    let status = match evidence.outcome {
        Outcome::Replied { status: Some(status), .. } => status.to_string(),
        Outcome::Replied { status: None, .. } | Outcome::Closed | Outcome::GivenUp | Outcome::Pending => {
            "something that is not HTTP".to_owned()
        }
    };
    let to = subject.upstream.unwrap_or(*proxy);
    match judgement.verdict {
        Verdict::HandledAsHttp => {
            let listener = if subject.inbound {
                "The HTTP listener of the proxy's own Envoy"
            } else {
                "Envoy's HTTP listener"
            };
            match judgement.reason {
                Some(Reason::Forwarded) => format!(
                    "{listener} took {asked} for a request of its own and sent {to} a rewritten one; the reply ({status}) went through it, too"
                ),
                Some(Reason::Terminated) => format!(
                    "{listener} answered {status} to {asked} itself and sends what is inside the tunnel to {to} without a CONNECT, so the proxy cannot know where it should go"
                ),
                Some(Reason::UpstreamFailed) => format!(
                    "{listener} answered {status} to {asked}: it tried to forward it as an HTTP request and could not"
                ),
                Some(Reason::UpgradeFailed) => format!(
                    "{listener} answered {status} to {asked}: it has a route for CONNECT but is not allowed to upgrade to it; it never dialled the proxy {proxy}"
                ),
                Some(Reason::FilterDenied) => format!(
                    "A filter in {listener} answered {status} to {asked}; it never dialled the proxy {proxy}",
                    listener = if subject.inbound {
                        "the HTTP listener of the proxy's own Envoy"
                    } else {
                        "Envoy's HTTP listener"
                    },
                ),
                Some(Reason::Http10Refused) => format!(
                    "{listener} answered {status} to {asked} because it takes no HTTP/1.0; it never dialled the proxy {proxy}"
                ),
                _ => format!("{listener} answered {status} to {asked}; it never dialled the proxy {proxy}"),
            }
        }
        Verdict::Tunneled => match evidence.upstream {
            Carried::SameBytes => {
                format!("The proxy {to} granted {asked} ({status}); {whose} only passed the bytes on")
            }
            Carried::Tls => {
                format!("{asked} was granted ({status}) through a TLS connection from {whose} to {to}")
            }
            Carried::NoConnection
            | Carried::DialFailed
            | Carried::Nothing
            | Carried::RewrittenRequest
            | Carried::OtherBytes => {
                format!("{asked} was granted ({status}); how {whose} reached the proxy {proxy} was not seen")
            }
        },
        Verdict::RefusedByProxy => match evidence.upstream {
            Carried::SameBytes => format!(
                "The proxy {to} itself answered {status} to {asked}; {whose} only passed the bytes on and is not at fault"
            ),
            Carried::NoConnection
            | Carried::DialFailed
            | Carried::Nothing
            | Carried::RewrittenRequest
            | Carried::Tls
            | Carried::OtherBytes => format!(
                "The app got {status} for {asked}; what {whose} sent to {to} could not be read, so it is not blamed"
            ),
        },
        Verdict::Blackholed => format!(
            "{whose} closed the connection with {asked} without a byte and without dialling the proxy {proxy}: it has no route for that address and is not allowed to pass it through",
            whose = capitalized(whose),
        ),
        Verdict::WrappedInTls => format!(
            "{whose} began TLS with the proxy {to} instead of passing on the plaintext {asked}, which the proxy does not understand",
            whose = capitalized(whose),
        ),
        Verdict::Unreachable => match judgement.reason {
            Some(Reason::ConnectFailed) => {
                format!(
                    "{whose} could not connect to {to}, so {asked} got no answer",
                    whose = capitalized(whose)
                )
            }
            _ => format!("{to} closed the connection without an answer to {asked}; {whose} had passed it on"),
        },
        Verdict::Direct => format!("The app sent {asked} to {proxy} directly; no sidecar is in the path"),
        Verdict::Unanswered => match evidence.outcome {
            Outcome::GivenUp => {
                format!("The app closed the connection to {proxy} before {asked} was answered")
            }
            Outcome::Closed => format!(
                "{whose} closed the connection with {asked}; what it did before was not all seen, so it is not blamed",
                whose = capitalized(whose)
            ),
            Outcome::Pending | Outcome::Replied { .. } => match evidence.upstream {
                Carried::SameBytes => format!("The proxy {to} has {asked} and has not answered it yet"),
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::RewrittenRequest
                | Carried::Tls
                | Carried::OtherBytes => format!("Nobody has answered {asked}, sent to {proxy}, yet"),
            },
        },
        Verdict::AbsoluteFormRewritten => format!(
            "Envoy's HTTP listener took {asked}, meant for the proxy {proxy}, for a request of its own, rewrote it, and the app got {status}"
        ),
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
