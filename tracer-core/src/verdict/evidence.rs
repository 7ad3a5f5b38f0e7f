//! The facts on which a verdict rests.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::Reason;
use crate::{
    head::{Body, Form},
    mesh_profile::InterceptorKind,
};

/// The facts on which a verdict rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact")]
pub struct Evidence {
    /// The form of the request.
    pub form: Form,
    /// The kind of interceptor that accepted the app's connection. `None`: no interceptor did.
    pub interceptor: Option<InterceptorKind>,
    /// How the request ended.
    pub outcome: Outcome,
    /// What the interceptor sent upstream before that.
    pub upstream: Payload,
    /// That socket, or a dial that failed meanwhile, may be another session's.
    pub upstream_in_doubt: bool,
    /// The upstream socket ended before its peer sent anything.
    pub upstream_failed: bool,
    /// The TLS that the interceptor began was accepted by its peer, which therefore speaks TLS.
    pub tls_established: bool,
    /// A connection that the interceptor shares between sessions may have carried the request and the answer.
    pub shared_upstream: bool,
    /// Whether Envoy kept the connection beyond the callback in which it built its filters, so that one of them could wait for
    /// an upstream connection. `None`: not known, or not Envoy.
    pub was_kept: Option<bool>,
    /// No record was lost while the request waited, so a connection that was not seen was not made.
    pub nothing_lost: bool,
    /// The connection was captured from its beginning, so a dial that was not seen was not made.
    pub from_start: bool,
    /// The answer has a sign of a forward proxy that no Envoy writes. It acquits the sidecar; it never convicts.
    pub by_proxy: bool,
}

impl Evidence {
    /// The evidence on a dial that the pod's redirect led to a port on which no process listens.
    pub fn not_accepted(form: Form, interceptor: Option<InterceptorKind>) -> Self {
        Self {
            form,
            interceptor,
            outcome: Outcome::NotAccepted,
            upstream: Payload::NoConnection,
            upstream_in_doubt: false,
            upstream_failed: false,
            tls_established: false,
            shared_upstream: false,
            was_kept: None,
            nothing_lost: true,
            from_start: true,
            by_proxy: false,
        }
    }

    /// Whether the answer bears a proxy's sign, although no socket was seen that could have brought it.
    pub fn is_acquitted(&self) -> bool {
        self.by_proxy && self.is_upstream_silent()
    }

    /// Whether no byte was seen to go upstream.
    pub(super) fn is_upstream_silent(&self) -> bool {
        matches!(self.upstream, Payload::NoConnection | Payload::Nothing | Payload::DialFailed)
    }

    /// Why the absence of an upstream proves nothing here. `None`: what was not seen did not happen.
    pub(super) fn doubt(&self) -> Option<Reason> {
        if !self.nothing_lost {
            Some(Reason::RecordsLost)
        } else if self.interceptor == Some(InterceptorKind::Ztunnel) && self.outcome != Outcome::Closed {
            // ztunnel parses no HTTP, so it makes no answer of its own: https://github.com/istio/ztunnel
            Some(Reason::BeyondZtunnel)
        } else if self.shared_upstream {
            Some(Reason::SharedUpstream)
        } else if self.upstream_in_doubt {
            Some(Reason::LegNotSeen)
        } else {
            None
        }
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
    /// The pod's redirect led to a port on which no process listens.
    NotAccepted,
}

/// What the sidecar's upstream socket carried before the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, VariantArray)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// A CONNECT of the sidecar's own, which asks for a tunnel for the app's bytes.
    OwnConnect,
    /// The app's request, rewritten by the sidecar.
    RewrittenRequest,
    /// The app's own bytes.
    SameBytes,
}
