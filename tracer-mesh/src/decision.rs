//! What the sidecar decides about a connection, in the terms of the JSON contract of `egress-tracer explain`.

use serde::Serialize;
use tracer_core::verdict::{Reason, Verdict};

/// The decision on one connection, and the steps that lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The listener that handles the connection; `None` where Envoy never sees it.
    pub listener: Option<String>,
    /// What the listener filters made of the first bytes; `None` while they wait for more.
    pub detected: Option<Detected>,
    /// The chain's name; many chains have none.
    pub filter_chain: Option<String>,
    /// What kind of chain handles the connection.
    pub kind: Kind,
    /// Name of the route configuration.
    pub route_config: Option<String>,
    /// Name of the virtual host that has the request's domain.
    pub virtual_host: Option<String>,
    /// Name of the route that takes the request, where it has one.
    #[serde(skip)]
    pub route: Option<String>,
    /// Name of the cluster that the connection or request goes to.
    pub cluster: Option<String>,
    /// What becomes of it.
    pub outcome: ConnectionOutcome,
    /// The status of Envoy's own answer.
    pub status: Option<u16>,
    /// Envoy's own response code details, as its access log has them.
    pub details: Option<String>,
    /// The verdict of a report; `None` where the bytes are no request to a proxy.
    pub verdict: Option<Verdict>,
    /// The verdict's reason, where it has one.
    pub reason: Option<Reason>,
    /// HTTP filters that may answer before the router, so that `status` holds only if they let it pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub early_filters: Vec<String>,
    /// The steps of the decision, a sentence each.
    #[serde(skip)]
    pub steps: Vec<String>,
    /// Where the bytes go, where that is not the address that the app dialed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_to: Option<String>,
    /// The addresses that the bytes or the request can go to, as far as the dump has them.
    #[serde(skip)]
    pub hosts: Vec<String>,
    /// What becomes of a client whose first bytes come too late for the listener filters, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// Whether everything on the way of the connection is understood: there is no caveat and no early filter.
    pub certain: bool,
    /// What the decision had to leave open, a sentence each.
    pub caveats: Vec<String>,
    /// What else decides about the connection later, a sentence each: limits, bytes that Envoy adds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(crate) inner: Inner,
}

/// What becomes of a client that sends nothing for as long as the listener filters wait (`protocolDetectionTimeout`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Late {
    /// How long they wait, as the configuration has it: `5s`.
    pub after: String,
    /// What becomes of its connection.
    pub outcome: ConnectionOutcome,
    /// The status of Envoy's own answer.
    pub status: Option<u16>,
    /// The verdict of a report.
    pub verdict: Option<Verdict>,
}

/// What the search for origins and fixes needs beyond the contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Inner {
    /// Where the listener comes from.
    pub place: Place,
    /// The VirtualService of the route or chain, as `/apis/…`.
    pub made_from: Option<String>,
    /// The app spoke to a proxy: CONNECT, or an absolute-form request.
    pub is_connect: bool,
    /// The request names a host in its target, as one to a proxy does: `GET http://host/`.
    pub is_absolute_form: bool,
    /// The app dials a listener that the kernel holds: it means to speak to the sidecar.
    pub is_own_port: bool,
    /// Envoy speaks TLS to the cluster.
    pub wraps_tls: bool,
    /// Envoy writes a CONNECT of its own, and the app's bytes pass inside that tunnel.
    pub is_rewritten: bool,
    /// Envoy writes a PROXY protocol header before the bytes.
    pub sends_proxy_header: bool,
    /// The TLS is the mesh's own.
    pub is_mesh_tls: bool,
    /// Envoy speaks TLS of another kind than the mesh's to a proxy that has a sidecar, which does not take it.
    pub wraps_mesh_host: bool,
    /// The connection comes from outside of the pod, and the dump is of the pod that it is for.
    pub is_inbound: bool,
    /// The dump is of a gateway.
    pub is_gateway: bool,
    /// The answer depends on routes that the dump does not hold.
    pub routes_missing: bool,
    /// The route configuration has no virtual host for the request's authority.
    pub no_domain_for: Option<String>,
    /// The cluster has no host.
    pub no_host: bool,
}

/// Which listener took the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// The one on exactly the dialed address.
    Exact,
    /// The one on the port, any address.
    Wildcard,
    /// The entry listener itself, because no other fits.
    #[default]
    Entry,
    /// None: the connection is not redirected.
    NotRedirected,
}

/// What the listener filters detected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detected {
    /// `raw_buffer` or `tls`.
    pub transport: String,
    /// `http/1.1`, `http/1.0`, `h2c`, or a ClientHello's first ALPN protocol.
    pub application: Option<String>,
}

/// The kind of a filter chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An HTTP connection manager.
    Http,
    /// A TCP proxy.
    Tcp,
    /// No chain, or one without filters.
    #[default]
    None,
    /// Another protocol's filter.
    Other,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionOutcome {
    /// Envoy answers by itself.
    LocalReply,
    /// The bytes pass as TCP.
    Tunnel,
    /// The bytes pass as TCP, but to another address than the dialed one, or inside a tunnel that Envoy opens.
    Elsewhere,
    /// A network filter sends bytes of its own and closes.
    Answered,
    /// The request is written anew to the cluster.
    Forward,
    /// Envoy answers the CONNECT with 200 and sends only what follows.
    Terminate,
    /// Closed without a byte.
    Close,
    /// Undecided until more bytes come.
    #[default]
    Pending,
}

/// What the other side gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The app's bytes as they are, or inside the mesh's own mTLS, which the other side takes off.
    AsSent,
    /// Inside TLS that the other side does not expect.
    InTls,
    /// After a PROXY protocol header.
    AfterProxyHeader,
    /// Something that Envoy writes: a request of its own, or a tunnel for the bytes.
    Rewritten,
    /// Nothing of the first bytes.
    Nothing,
}

impl Decision {
    /// What the other side gets of the app's first bytes.
    pub fn arrival(&self) -> Arrival {
        let is_dialed = matches!(
            self.outcome,
            ConnectionOutcome::Tunnel
                | ConnectionOutcome::Elsewhere
                | ConnectionOutcome::Forward
                | ConnectionOutcome::Terminate
        );
        match self.outcome {
            _ if !is_dialed => Arrival::Nothing,
            _ if self.inner.wraps_tls => Arrival::InTls,
            _ if self.inner.sends_proxy_header => Arrival::AfterProxyHeader,
            _ if self.inner.is_rewritten => Arrival::Rewritten,
            ConnectionOutcome::Terminate => Arrival::Nothing,
            ConnectionOutcome::Forward => Arrival::Rewritten,
            _ => Arrival::AsSent,
        }
    }

    /// Whether the outcome is that the proxy gets the app's bytes, in plaintext and unchanged.
    pub fn reaches_proxy(&self) -> bool {
        self.outcome == ConnectionOutcome::Tunnel && !self.inner.wraps_tls
    }

    /// Whether something is to be changed: neither does the connection reach its proxy, nor is it meant to go another way.
    pub fn is_fault(&self) -> bool {
        let is_meant = self.inner.is_rewritten || self.verdict.is_none() && self.inner.is_own_port;
        !self.reaches_proxy() && self.outcome != ConnectionOutcome::Pending && !is_meant
    }

    pub(crate) fn step(&mut self, sentence: impl Into<String>) {
        self.steps.push(sentence.into());
    }

    pub(crate) fn caveats(&mut self, sentences: &[String]) {
        for sentence in sentences {
            self.caveat(sentence);
        }
    }

    pub(crate) fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    pub(crate) fn caveat(&mut self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.caveats.contains(&sentence) {
            self.caveats.push(sentence);
        }
    }

    /// Fills `verdict` and `reason` from the outcome.
    pub(crate) fn judge(&mut self) {
        let (verdict, reason) = match self.outcome {
            _ if !self.inner.is_connect => (None, None),
            ConnectionOutcome::Close => (Some(Verdict::Blackholed), None),
            ConnectionOutcome::Tunnel if self.inner.place == Place::NotRedirected => {
                (Some(Verdict::Direct), None)
            }
            ConnectionOutcome::Tunnel if self.inner.wraps_mesh_host => {
                (Some(Verdict::Unreachable), Some(Reason::ClosedWithoutReply))
            }
            ConnectionOutcome::Tunnel if self.inner.wraps_tls => (Some(Verdict::WrappedInTls), None),
            ConnectionOutcome::Tunnel => (Some(Verdict::Tunneled), None),
            ConnectionOutcome::Elsewhere if self.inner.is_rewritten => {
                (Some(Verdict::Undetermined), Some(Reason::Rewritten))
            }
            ConnectionOutcome::Elsewhere => (Some(Verdict::Misdirected), None),
            ConnectionOutcome::Pending | ConnectionOutcome::Answered => (None, None),
            // The sidecar is the proxy that the app means.
            ConnectionOutcome::Forward if self.inner.is_absolute_form && self.inner.is_own_port => {
                (None, None)
            }
            ConnectionOutcome::Forward if self.inner.is_absolute_form => {
                (Some(Verdict::AbsoluteFormRewritten), None)
            }
            ConnectionOutcome::Forward => (Some(Verdict::HandledAsHttp), Some(Reason::Forwarded)),
            ConnectionOutcome::Terminate => (Some(Verdict::HandledAsHttp), Some(Reason::Terminated)),
            ConnectionOutcome::LocalReply if self.status.is_none() => (Some(Verdict::HandledAsHttp), None),
            ConnectionOutcome::LocalReply => (Some(Verdict::HandledAsHttp), Some(self.local_reply())),
        };
        (self.verdict, self.reason) = (verdict, reason);
        self.certain = self.caveats.is_empty() && self.early_filters.is_empty();
    }

    /// Why Envoy answers by itself.
    fn local_reply(&self) -> Reason {
        match (self.status, self.details.as_deref()) {
            (_, Some("route_not_found")) => Reason::RouteNotFound,
            (_, Some("upgrade_failed")) => Reason::UpgradeFailed,
            (_, Some(details)) if details.starts_with("rbac_access_denied") => Reason::FilterDenied,
            (Some(426), _) => Reason::Http10Refused,
            (Some(400), _) => Reason::BadRequest,
            (Some(501), _) => Reason::NotImplemented,
            (Some(503), _) => Reason::UpstreamFailed,
            _ => Reason::OtherStatus,
        }
    }
}
