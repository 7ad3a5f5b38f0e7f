//! The words of a report: the evidence, a sentence for each piece, and the one sentence that an engineer on call
//! understands without knowing Envoy. No sentence says more than was seen.

use compact_str::CompactString;

use super::text::shortened;
use crate::{
    address,
    head::{Body, Form, Request},
    verdict::{Carried, Evidence, Judgement, Outcome, Reason, Verdict},
};

/// Room for most sentences.
const LENGTH: usize = 192;

/// A sentence of these words, one behind the other. There are three of them for each report, and this takes a third of the
/// instructions that `format!` does.
macro_rules! say {
    ($($words:tt)+) => {{
        let mut sentence = String::with_capacity(LENGTH);
        $(Words::push_to(&$words, &mut sentence);)+
        sentence
    }};
}

/// What a sentence is made of.
trait Words {
    fn push_to(&self, sentence: &mut String);
}

impl Words for str {
    fn push_to(&self, sentence: &mut String) {
        sentence.push_str(self);
    }
}

impl Words for CompactString {
    fn push_to(&self, sentence: &mut String) {
        sentence.push_str(self);
    }
}

impl Words for u16 {
    fn push_to(&self, sentence: &mut String) {
        address::push_number(sentence, *self);
    }
}

impl<const N: usize> Words for [&str; N] {
    fn push_to(&self, sentence: &mut String) {
        for words in self {
            sentence.push_str(words);
        }
    }
}

impl<T: Words + ?Sized> Words for &T {
    fn push_to(&self, sentence: &mut String) {
        (**self).push_to(sentence);
    }
}

/// Words that depend on something.
struct Told<F>(F);

impl<F: Fn(&mut String)> Words for Told<F> {
    fn push_to(&self, sentence: &mut String) {
        self.0(sentence);
    }
}

/// What the sentences are about.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a Request,
    /// What the app dialled, as it is shown: several sentences name it.
    pub(crate) proxy: CompactString,
    /// What the sidecar dialled in place of that, as it is shown.
    pub(crate) endpoint: Option<CompactString>,
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

    fn asked(&self) -> impl Words {
        Told(|sentence: &mut String| {
            let what = match self.request.form {
                Form::Connect => "CONNECT ",
                Form::Absolute => "the request for http://",
            };
            [what, &shortened(&self.request.authority)].push_to(sentence);
        })
    }

    fn dialled_address(&self) -> &str {
        self.endpoint.as_ref().unwrap_or(&self.proxy)
    }

    /// Whom the sidecar dialled: the proxy as the app knows it, or an endpoint behind that address.
    fn dialled(&self) -> impl Words {
        self.dialled_with("the")
    }

    /// The same at the beginning of a sentence.
    fn dialled_first(&self) -> impl Words {
        self.dialled_with("The")
    }

    fn dialled_with(&self, article: &'static str) -> impl Words {
        Told(move |sentence: &mut String| {
            [article, " proxy ", &self.proxy].push_to(sentence);
            if let Some(endpoint) = &self.endpoint {
                [" (at ", endpoint, ")"].push_to(sentence);
            }
        })
    }
}

/// What the verdict rests on, one sentence each.
pub(crate) fn evidence(subject: &Subject<'_>, evidence: &Evidence) -> Vec<String> {
    let proxy = &subject.proxy;
    let Some(port) = subject.sidecar_port else {
        return vec![say!("the connection to " proxy " was not redirected to a sidecar")];
    };
    let whose = subject.whose();
    let mut said = Vec::with_capacity(2); // of most
    said.push(match evidence.outcome {
        Outcome::Replied { .. } if subject.inbound => {
            say!("the reply came from the socket of " whose " on port " port)
        }
        Outcome::Replied { .. } => say!("the reply came from " whose "'s socket on port " port),
        Outcome::Closed => say!(whose " closed the connection without a byte"),
        Outcome::GivenUp => "the app closed the connection before there was a reply".to_owned(),
        Outcome::Pending => "there was no reply before the deadline".to_owned(),
    });
    let to = subject.dialled_address();
    said.push(match evidence.upstream {
        Carried::NoConnection if saw_all(evidence) => say!(whose " opened no connection to " proxy),
        Carried::NoConnection => say!("no connection of " whose " to " proxy " was seen"),
        Carried::DialFailed => say!("the connection of " whose " to " to " failed"),
        Carried::Nothing => {
            say!(whose " had opened a connection to " to ", and was not seen to send anything on it")
        }
        Carried::SameBytes => say!(whose " sent the app's own bytes to " to),
        Carried::RewrittenRequest => say!(whose " sent a request in its own words to " to),
        Carried::Tls => say!(whose " sent TLS to " to "; what is inside was not seen"),
        Carried::OtherBytes => say!(whose " sent other bytes than the app's to " to),
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
                    say!((subject.dialled_first()) " granted " asked " (" granted "); " whose " only passed the bytes on")
                }
                Carried::Tls => {
                    say!(asked " was granted (" granted "); " whose " had sent TLS to " dialled ", so what it asked there was not seen")
                }
                Carried::OtherBytes => {
                    say!(asked " was granted (" granted "); " whose " had sent other bytes than the app's to " dialled)
                }
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::RewrittenRequest => {
                    say!(asked " was granted (" granted "); how " whose " reached the proxy " proxy " was not seen, so nobody is blamed")
                }
            }
        }
        Verdict::RefusedByProxy => refused(subject, evidence),
        Verdict::Blackholed => {
            say!(whose_first " dropped " asked ": it closed the connection without a byte and never dialled the proxy " proxy ", so its configuration gives it nowhere to send what goes there")
        }
        Verdict::WrappedInTls => {
            let since = match evidence.outcome {
                Outcome::Closed => "the connection ended without an answer",
                Outcome::Replied { .. } | Outcome::GivenUp | Outcome::Pending => "there is no answer yet",
            };
            say!(whose_first " began TLS with " dialled " where the app had sent a plaintext " asked ", and " since)
        }
        Verdict::Unreachable => match (judgement.reason, evidence.upstream) {
            (Some(Reason::ConnectFailed), _) => {
                say!(whose_first " could not connect to " dialled ", so " asked " got no answer")
            }
            (_, Carried::SameBytes) => {
                say!(whose_first " passed " asked " on to " dialled ", and the connection was closed without an answer")
            }
            (
                _,
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::RewrittenRequest
                | Carried::Tls
                | Carried::OtherBytes,
            ) => {
                say!(whose_first " connected to " dialled ", and the connection was closed without an answer to " asked)
            }
        },
        Verdict::Direct => {
            say!("The app sent " asked " directly to " proxy "; no sidecar took the connection")
        }
        Verdict::Unanswered => unanswered(subject, evidence),
        Verdict::AbsoluteFormRewritten => {
            let (listener, got) = (subject.listener(), status(evidence));
            match evidence.upstream {
                Carried::RewrittenRequest => {
                    say!(listener " took " asked ", meant for the proxy " proxy ", for one of its own and sent a rewritten one to " (subject.dialled_address()) "; the app got " got)
                }
                Carried::NoConnection
                | Carried::DialFailed
                | Carried::Nothing
                | Carried::SameBytes
                | Carried::Tls
                | Carried::OtherBytes => {
                    say!(listener " took " asked ", meant for the proxy " proxy ", for one of its own; the app got " got ", and the proxy did not get the request as the app wrote it")
                }
            }
        }
    }
}

fn handled_as_http(subject: &Subject<'_>, evidence: &Evidence, reason: Option<Reason>) -> String {
    let proxy = &subject.proxy;
    let (listener, asked, dialled) = (subject.listener(), subject.asked(), subject.dialled());
    let status = status(evidence);
    let nothing = match evidence.upstream {
        Carried::NoConnection if saw_all(evidence) => "it never dialled",
        Carried::NoConnection => "it was not seen to dial",
        Carried::DialFailed
        | Carried::Nothing
        | Carried::SameBytes
        | Carried::RewrittenRequest
        | Carried::Tls
        | Carried::OtherBytes => "it sent nothing of it to",
    };
    let nothing_sent = [nothing, " the proxy ", proxy.as_str()];
    match (reason, evidence.upstream) {
        (Some(Reason::Forwarded | Reason::UpstreamFailed), Carried::RewrittenRequest) => {
            say!(listener " took " asked " for a request of its own and sent a rewritten one to " dialled "; the app got " status)
        }
        (Some(Reason::Terminated), _) => {
            say!(listener " itself granted " asked " (" status ") and had sent no CONNECT to " dialled ", so the proxy cannot know where the tunnel should go")
        }
        (Some(Reason::UpstreamFailed), Carried::DialFailed) => {
            say!(listener " answered " status " to " asked ": it took it for a request of its own, and could not connect to " dialled)
        }
        (Some(Reason::UpstreamFailed), _) => {
            say!(listener " answered " status " to " asked ": it took it for a request of its own, and " nothing_sent)
        }
        (Some(Reason::UpgradeFailed), _) => {
            let body = match evidence.outcome {
                Outcome::Replied { body: Body::Empty, .. } => " without a body",
                Outcome::Replied { .. } | Outcome::Closed | Outcome::GivenUp | Outcome::Pending => "",
            };
            say!(listener " answered " status body " to " asked ", as it does where it has a route for CONNECT but may not use it; " nothing_sent)
        }
        (Some(Reason::FilterDenied), _) => {
            say!(listener " answered " status " to " asked ", most likely by an access rule or a limit in one of its filters; " nothing_sent)
        }
        (Some(Reason::Http10Refused), _) => {
            say!(listener " answered " status " to " asked ", which came as HTTP/" (subject.request.http_version) ": it wants a newer one; " nothing_sent)
        }
        (Some(Reason::BadRequest), _) => {
            say!(listener " answered " status " to " asked ": to it, that is no valid request; " nothing_sent)
        }
        (Some(Reason::NotImplemented), _) => {
            say!(listener " answered " status " to " asked ": it does not support what the request asks for; " nothing_sent)
        }
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
        ) => say!(listener " answered " status " to " asked "; " nothing_sent),
    }
}

fn refused(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let (asked, dialled, whose) = (subject.asked(), subject.dialled(), subject.whose());
    let status = status(evidence);
    match evidence.upstream {
        Carried::SameBytes => {
            say!((subject.dialled_first()) " itself answered " status " to " asked "; " whose " only passed the bytes on and is not at fault")
        }
        Carried::Tls => {
            say!("The app got " status " for " asked "; " whose " had sent TLS to " dialled ", which cannot be read, so nobody is blamed")
        }
        Carried::OtherBytes => {
            say!("The app got " status " for " asked "; " whose " had sent other bytes than the app's to " dialled ", so nobody is blamed")
        }
        Carried::NoConnection | Carried::DialFailed | Carried::Nothing | Carried::RewrittenRequest => {
            say!("The app got " status " for " asked "; whether " whose " or the proxy " (subject.proxy) " made it was not seen, so nobody is blamed")
        }
    }
}

fn unanswered(subject: &Subject<'_>, evidence: &Evidence) -> String {
    let proxy = &subject.proxy;
    let (asked, dialled, whose) = (subject.asked(), subject.dialled(), subject.whose_first());
    match (evidence.outcome, evidence.upstream) {
        (Outcome::GivenUp, Carried::SameBytes) => {
            say!("The app closed the connection before " dialled " had answered " asked ", which " (subject.whose()) " had passed on")
        }
        (Outcome::GivenUp, _) => {
            say!("The app closed the connection to " proxy " before " asked " was answered")
        }
        (Outcome::Closed, _) => {
            say!(whose " closed the connection to " proxy " without an answer to " asked "; not all that it did before was seen, so nobody is blamed")
        }
        (_, Carried::SameBytes) => {
            say!(whose " passed " asked " on to " dialled ", which has not answered yet")
        }
        (_, Carried::RewrittenRequest) => {
            say!((subject.listener()) " took " asked " for a request of its own and sent a rewritten one to " dialled ", which has not answered yet")
        }
        (_, Carried::DialFailed) => {
            say!(whose " could not connect to " dialled ", and " asked " has no answer yet")
        }
        (_, Carried::Nothing) => {
            say!(whose " has dialled " dialled " and was not seen to send anything there; " asked " has no answer yet")
        }
        (_, Carried::Tls | Carried::OtherBytes) => {
            say!(whose " has not passed " asked " on to " dialled " as it was, and there is no answer yet")
        }
        (_, Carried::NoConnection) => {
            say!(whose " has neither answered " asked " nor been seen to dial the proxy " proxy)
        }
    }
}

/// What the app got.
fn status(evidence: &Evidence) -> impl Words {
    let outcome = evidence.outcome;
    Told(move |sentence: &mut String| match outcome {
        Outcome::Replied { status: Some(status), .. } => status.push_to(sentence),
        Outcome::Replied { status: None, .. } => sentence.push_str("something that is not HTTP"),
        Outcome::Closed | Outcome::GivenUp | Outcome::Pending => sentence.push_str("no answer"),
    })
}
