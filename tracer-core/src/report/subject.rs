//! The parts of a report's sentences: the sidecar, the proxy, and what the app asked for and got.

use std::fmt;

use compact_str::CompactString;

use super::text::shortened;
use crate::{
    head::{Form, Request},
    verdict::Outcome,
};

/// What the sentences are about.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a Request,
    /// The address the app dialed, as text.
    pub(crate) proxy: CompactString,
    /// The address the sidecar dialed, as text, if it is another.
    pub(crate) endpoint: Option<CompactString>,
    pub(crate) sidecar_port: Option<u16>,
    pub(crate) inbound: bool,
    /// How long the request has waited, in microseconds.
    pub(crate) waited: u64,
}

impl Subject<'_> {
    /// The sidecar, in the middle of a sentence.
    pub(super) fn sidecar(&self) -> &'static str {
        if self.inbound { "the proxy's own sidecar" } else { "the sidecar" }
    }

    /// The sidecar, at the beginning of a sentence.
    pub(super) fn sidecar_first(&self) -> &'static str {
        if self.inbound { "The proxy's own sidecar" } else { "The sidecar" }
    }

    pub(super) fn listener(&self) -> &'static str {
        if self.inbound { "The HTTP listener of the proxy's own Envoy" } else { "Envoy's HTTP listener" }
    }

    pub(super) fn asked(&self) -> String {
        let authority = shortened(&self.request.authority);
        match self.request.form {
            Form::Connect => format!("CONNECT {authority}"),
            Form::Absolute => format!("the request for http://{authority}"),
        }
    }

    pub(super) fn dialed_address(&self) -> &str {
        self.endpoint.as_ref().unwrap_or(&self.proxy)
    }

    /// The peer that the sidecar dialed, in the middle of a sentence: the proxy as the app dialed it, and the endpoint
    /// behind that address.
    pub(super) fn dialed(&self) -> Dialed<'_> {
        Dialed { article: "the", subject: self }
    }

    /// The peer that the sidecar dialed, at the beginning of a sentence.
    pub(super) fn dialed_first(&self) -> Dialed<'_> {
        Dialed { article: "The", subject: self }
    }
}

/// `the proxy 10.0.0.1:3128 (at 10.244.2.7:3128)`.
pub(super) struct Dialed<'a> {
    article: &'static str,
    subject: &'a Subject<'a>,
}

impl fmt::Display for Dialed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} proxy {}", self.article, self.subject.proxy)?;
        match &self.subject.endpoint {
            Some(endpoint) => write!(f, " (at {endpoint})"),
            None => Ok(()),
        }
    }
}

/// What the app got: a status, or that there was none.
pub(super) struct Status(pub(super) Outcome);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Replied { status: Some(status), .. } => status.fmt(f),
            Outcome::Replied { status: None, .. } => f.write_str("something that is not HTTP"),
            Outcome::Closed | Outcome::GivenUp | Outcome::Pending | Outcome::NotAccepted => {
                f.write_str("no answer")
            }
        }
    }
}
