//! The causes of a wrong connection, each with a stable code that `docs/findings.md` explains.

use super::decision::{ConnectionOutcome, Decision, Kind, Place};
use super::origin::{Declared, Origins};

/// A cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `ET0101`. A code never changes its meaning.
    pub code: &'static str,
    /// The cause in a few words.
    pub title: &'static str,
}

impl Finding {
    /// All of them, in the order of their codes.
    pub const ALL: &'static [Self] = &[
        Self { code: "ET0101", title: "another service's HTTP port takes the proxy's address" },
        Self { code: "ET0102", title: "the proxy's own port is declared as HTTP" },
        Self { code: "ET0103", title: "the port's protocol is not declared, and the bytes look like HTTP" },
        Self { code: "ET0104", title: "an HTTP listener of unknown origin takes the proxy's address" },
        Self { code: "ET0105", title: "a route takes the CONNECT, but the upgrade is not allowed" },
        Self { code: "ET0106", title: "a route forwards the CONNECT as a request of the sidecar's own" },
        Self { code: "ET0107", title: "a route ends the CONNECT in the sidecar" },
        Self { code: "ET0108", title: "an HTTP filter answers the request" },
        Self { code: "ET0109", title: "a route answers or redirects the request" },
        Self { code: "ET0110", title: "the HTTP listener refuses the form of the request" },
        Self { code: "ET0111", title: "the cluster of the request's route has no host" },
        Self { code: "ET0112", title: "an absolute-form request is sent on in origin form" },
        Self { code: "ET0113", title: "the routes that decide are not in the dump" },
        Self { code: "ET0201", title: "the outbound traffic policy is REGISTRY_ONLY" },
        Self { code: "ET0202", title: "the service has no endpoint that Envoy may use" },
        Self { code: "ET0203", title: "no filter chain takes the connection" },
        Self { code: "ET0204", title: "the filter chain or its cluster ends the connection" },
        Self { code: "ET0301", title: "a DestinationRule makes the sidecar speak TLS to the proxy" },
        Self { code: "ET0302", title: "the mesh's mTLS goes to a proxy without a sidecar" },
        Self { code: "ET0303", title: "TLS of another kind goes to a proxy with a sidecar" },
        Self { code: "ET0401", title: "another service takes the port and gets the bytes" },
        Self { code: "ET0402", title: "the sidecar sends the bytes through a tunnel of its own" },
        Self { code: "ET0403", title: "a network filter answers in the proxy's place" },
        Self { code: "ET0501", title: "the proxy's own sidecar handles the connection" },
    ];

    /// The cause of `decision`; `None` where the connection reaches the proxy, or is not decided.
    pub(crate) fn of(decision: &Decision, origins: &Origins, is_own_service: bool) -> Option<Self> {
        let inner = &decision.inner;
        if decision.reaches_proxy() || decision.outcome == ConnectionOutcome::Pending {
            return None;
        }
        let details = decision.details.as_deref().unwrap_or_default();
        let code = match decision.outcome {
            _ if inner.is_inbound => "ET0501",
            ConnectionOutcome::LocalReply if inner.routes_missing => "ET0113",
            ConnectionOutcome::LocalReply if details == "upgrade_failed" => "ET0105",
            ConnectionOutcome::LocalReply if details == "direct_response" => "ET0109",
            ConnectionOutcome::LocalReply
                if details.starts_with("rbac_") || details == "fault_filter_abort" =>
            {
                "ET0108"
            }
            ConnectionOutcome::LocalReply if matches!(decision.status, Some(400 | 426 | 431 | 501)) => {
                "ET0110"
            }
            ConnectionOutcome::LocalReply if is_upstream_lack(details) => "ET0111",
            ConnectionOutcome::LocalReply => listener(decision, origins, is_own_service),
            ConnectionOutcome::Forward if inner.is_absolute_form => "ET0112",
            ConnectionOutcome::Forward => "ET0106",
            ConnectionOutcome::Terminate => "ET0107",
            ConnectionOutcome::Close if decision.cluster.as_deref() == Some("BlackHoleCluster") => "ET0201",
            ConnectionOutcome::Close if inner.no_host => "ET0202",
            ConnectionOutcome::Close if decision.kind == Kind::None => "ET0203",
            ConnectionOutcome::Close => "ET0204",
            ConnectionOutcome::Tunnel if inner.wraps_mesh_host => "ET0303",
            ConnectionOutcome::Tunnel if inner.is_mesh_tls => "ET0302",
            ConnectionOutcome::Tunnel => "ET0301",
            ConnectionOutcome::Elsewhere if inner.is_rewritten => "ET0402",
            ConnectionOutcome::Elsewhere => "ET0401",
            ConnectionOutcome::Answered => "ET0403",
            ConnectionOutcome::Pending => return None,
        };
        Self::ALL.iter().find(|finding| finding.code == code).copied()
    }
}

/// Whether Envoy answers because the cluster is missing, has no host or allows no request.
fn is_upstream_lack(details: &str) -> bool {
    matches!(details, "no_healthy_upstream" | "cluster_not_found") || details.contains("overflow")
}

/// How an HTTP listener came to take the connection.
fn listener(decision: &Decision, origins: &Origins, is_own_service: bool) -> &'static str {
    match origins.declared {
        Declared::Nothing => "ET0103",
        Declared::Http if is_own_service => "ET0102",
        Declared::Http => "ET0101",
        Declared::Unnamed if decision.inner.place == Place::Entry => "ET0103",
        Declared::Unnamed => "ET0104",
    }
}
