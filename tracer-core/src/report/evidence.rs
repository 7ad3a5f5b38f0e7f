//! What a verdict rests on, as sentences. No sentence says more than was seen.

use super::subject::Subject;
use crate::{
    mesh_profile::InterceptorKind::Ztunnel,
    verdict::{Evidence, Outcome, Payload},
};

/// What the verdict rests on, one sentence each.
pub(crate) fn evidence(subject: &Subject<'_>, evidence: &Evidence) -> Vec<String> {
    let (proxy, sidecar) = (&subject.proxy, subject.sidecar());
    let Some(port) = subject.sidecar_port else {
        return vec![format!("the connection to {proxy} was not redirected to a sidecar")];
    };
    let mut said = Vec::with_capacity(2); // of most
    said.push(match evidence.outcome {
        Outcome::Replied { .. } if subject.inbound => {
            format!("the reply came from the socket of {sidecar} on port {port}")
        }
        Outcome::Replied { .. } => format!("the reply came from {sidecar}'s socket on port {port}"),
        Outcome::Closed => format!("{sidecar} closed the connection without a byte"),
        Outcome::GivenUp => "the app closed the connection before there was a reply".to_owned(),
        Outcome::Pending => "there was no reply before the deadline".to_owned(),
        Outcome::NotAccepted => {
            return vec![format!(
                "the connection to {proxy} was redirected to port {port} and refused there"
            )];
        }
    });
    let to = subject.dialed_address();
    said.push(match evidence.upstream {
        Payload::NoConnection if saw_all(evidence) => format!("{sidecar} opened no connection to {proxy}"),
        Payload::NoConnection => format!("no connection of {sidecar} to {proxy} was seen"),
        Payload::DialFailed => format!("the connection of {sidecar} to {to} failed"),
        Payload::Nothing => {
            format!("{sidecar} had opened a connection to {to}, and was not seen to send anything on it")
        }
        Payload::SameBytes => format!("{sidecar} sent the app's own bytes to {to}"),
        Payload::RewrittenRequest => format!("{sidecar} sent a request in its own words to {to}"),
        Payload::Tls if evidence.tls_established => {
            format!("{sidecar} sent TLS to {to}, which speaks TLS; what is inside was not seen")
        }
        Payload::Tls => format!("{sidecar} sent TLS to {to}; what is inside was not seen"),
        Payload::OwnConnect => {
            format!("{sidecar} sent a CONNECT of its own to {to}, and the app's bytes behind it")
        }
        Payload::OtherBytes => format!("{sidecar} sent other bytes than the app's to {to}"),
    });
    match (evidence.outcome, evidence.upstream, evidence.was_kept) {
        (Outcome::Closed, _, Some(false)) => {
            said.push(format!(
                "{sidecar} closed it while it built its filters, so none of them waited for a connection"
            ));
        }
        (Outcome::Closed, Payload::NoConnection, Some(true)) => {
            said.push(format!(
                "a filter of {sidecar} had kept it, and waited for something that was not seen"
            ));
        }
        _ => {}
    }
    if evidence.is_acquitted() {
        said.push("the answer has a sign of a forward proxy, such as Via or status 407".to_owned());
    }
    if evidence.upstream_in_doubt {
        said.push(match evidence.upstream {
            Payload::NoConnection => format!("a connection of {sidecar} to another address failed meanwhile"),
            _ => format!("{sidecar} may have opened that connection for another app"),
        });
    }
    if evidence.shared_upstream {
        said.push(format!(
            "{sidecar} received bytes meanwhile on a connection that it shares between sessions"
        ));
    }
    if !evidence.nothing_lost {
        said.push("records were lost meanwhile, so a connection may have gone unseen".to_owned());
    }
    if !evidence.from_start {
        said.push("the connection was open before the tracer was attached".to_owned());
    }
    said
}

/// Whether a connection that was not seen was not made. A 2xx and a proxy's own answer must have come through one.
pub(super) fn saw_all(evidence: &Evidence) -> bool {
    let granted = matches!(evidence.outcome, Outcome::Replied { status: Some(200..300), .. });
    let has_waited = evidence.outcome == Outcome::Closed && evidence.was_kept == Some(true);
    let may_be_unseen = evidence.by_proxy
        || has_waited
        || evidence.shared_upstream
        || evidence.upstream_in_doubt
        || evidence.interceptor == Some(Ztunnel);
    evidence.nothing_lost && evidence.from_start && !granted && !may_be_unseen
}
