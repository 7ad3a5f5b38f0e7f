//! The closed list of verdicts and reasons, and what they are called. It tells none from another.

use serde::{Deserialize, Serialize};

/// What became of a request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Verdict {
    /// An HTTP listener of the sidecar consumed the CONNECT.
    HandledAsHttp,
    /// Passed as TCP; the proxy answered 2xx.
    Tunneled,
    /// Passed as TCP; the proxy itself answered otherwise.
    RefusedByProxy,
    /// The sidecar closed it without a byte and without dialling.
    Blackholed,
    /// The sidecar sent a TLS hello in place of the plaintext CONNECT.
    WrappedInTls,
    /// Passed as TCP, but the proxy could not be reached, or said nothing.
    Unreachable,
    /// No sidecar in the path.
    Direct,
    /// No reply within the deadline, or the app gave up before.
    Unanswered,
    /// An absolute-form request meant for the proxy, re-emitted in origin form.
    AbsoluteFormRewritten,
}

/// Why, where a verdict has several causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The sidecar's own 404.
    RouteNotFound,
    /// Its own 403 without a body: a route matched, but CONNECT is not allowed.
    UpgradeFailed,
    /// An HTTP filter answered (RBAC's 403 has a body).
    FilterDenied,
    /// 426: this listener takes no HTTP/1.0.
    Http10Refused,
    /// 400
    BadRequest,
    /// 501
    NotImplemented,
    /// 503: it had nowhere to forward to.
    UpstreamFailed,
    /// Re-emitted upstream, rewritten.
    Forwarded,
    /// 200 by the sidecar itself; what follows goes upstream without the CONNECT.
    Terminated,
    /// Any other status of its own.
    OtherStatus,
    /// The sidecar's dial to the proxy failed.
    ConnectFailed,
    /// The proxy closed before it said a byte.
    ClosedWithoutReply,
}

impl Verdict {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::HandledAsHttp,
        Self::Tunneled,
        Self::RefusedByProxy,
        Self::Blackholed,
        Self::WrappedInTls,
        Self::Unreachable,
        Self::Direct,
        Self::Unanswered,
        Self::AbsoluteFormRewritten,
    ];

    /// The sidecar's configuration is at fault, and someone can fix it.
    pub fn is_flagged(self) -> bool {
        match self {
            Self::HandledAsHttp | Self::Blackholed | Self::WrappedInTls | Self::AbsoluteFormRewritten => true,
            Self::Tunneled | Self::RefusedByProxy | Self::Unreachable | Self::Direct | Self::Unanswered => {
                false
            }
        }
    }

    /// Its name in JSON, metrics and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::HandledAsHttp => "handled_as_http",
            Self::Tunneled => "tunneled",
            Self::RefusedByProxy => "refused_by_proxy",
            Self::Blackholed => "blackholed",
            Self::WrappedInTls => "wrapped_in_tls",
            Self::Unreachable => "unreachable",
            Self::Direct => "direct",
            Self::Unanswered => "unanswered",
            Self::AbsoluteFormRewritten => "absolute_form_rewritten",
        }
    }
}

impl Reason {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::RouteNotFound,
        Self::UpgradeFailed,
        Self::FilterDenied,
        Self::Http10Refused,
        Self::BadRequest,
        Self::NotImplemented,
        Self::UpstreamFailed,
        Self::Forwarded,
        Self::Terminated,
        Self::OtherStatus,
        Self::ConnectFailed,
        Self::ClosedWithoutReply,
    ];

    /// Its name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RouteNotFound => "route_not_found",
            Self::UpgradeFailed => "upgrade_failed",
            Self::FilterDenied => "filter_denied",
            Self::Http10Refused => "http10_refused",
            Self::BadRequest => "bad_request",
            Self::NotImplemented => "not_implemented",
            Self::UpstreamFailed => "upstream_failed",
            Self::Forwarded => "forwarded",
            Self::Terminated => "terminated",
            Self::OtherStatus => "other_status",
            Self::ConnectFailed => "connect_failed",
            Self::ClosedWithoutReply => "closed_without_reply",
        }
    }
}
