//! The closed list of verdicts and reasons. Names, flags, severities and pages are derived from it everywhere else.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumMessage, EnumString, IntoStaticStr, VariantArray};

/// What became of a request.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumMessage,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// An HTTP listener of the sidecar consumed the CONNECT.
    HandledAsHttp,
    /// Passed as TCP; the other side answered 2xx.
    Tunneled,
    /// Passed as TCP; the other side answered otherwise.
    RefusedByProxy,
    /// The sidecar closed it without a byte and without any dial, its own or a pooled one, for it.
    Blackholed,
    /// The sidecar sent a TLS hello in place of the plaintext CONNECT.
    WrappedInTls,
    /// Passed as TCP, but to an address that is neither the dialed one nor an endpoint behind it.
    Misdirected,
    /// The pod redirects its connections, and no process accepts them.
    InterceptorDown,
    /// Passed as TCP, but the proxy could not be reached, or closed without an answer.
    Unreachable,
    /// No sidecar in the path.
    Direct,
    /// No reply within the deadline, or the app gave up before.
    Unanswered,
    /// What was captured does not tell which side made the answer or the end.
    Undetermined,
    /// An absolute-form request meant for the proxy, re-emitted in origin form.
    AbsoluteFormRewritten,
}

/// How much a verdict should alarm its reader; a terminal colors it accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The request did what the app wanted.
    Good,
    /// The request failed, and the sidecar's configuration is not at fault.
    Doubtful,
    /// The sidecar's configuration is at fault.
    Flagged,
}

/// The cause, where a verdict has several.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The sidecar's own 404.
    RouteNotFound,
    /// The sidecar's own 403 without a body: a route matched, but CONNECT is not allowed.
    UpgradeFailed,
    /// An HTTP filter answered (RBAC's 403 has a body).
    FilterDenied,
    /// 426: the listener takes no HTTP/1.0.
    #[strum(serialize = "http10_refused")]
    Http10Refused,
    /// 400.
    BadRequest,
    /// 501.
    NotImplemented,
    /// 503: there was no upstream to forward to.
    UpstreamFailed,
    /// Re-emitted upstream, rewritten.
    Forwarded,
    /// 200 by the sidecar itself; what follows goes upstream without the CONNECT.
    Terminated,
    /// Any other status of the sidecar's own.
    OtherStatus,
    /// The sidecar's dial to the proxy failed.
    ConnectFailed,
    /// The other side closed before it sent a byte.
    ClosedWithoutReply,
    /// The app closed before there was an answer.
    GaveUp,
    /// There was no answer before the deadline.
    Deadline,
    /// Records of this session may be among those that were lost.
    RecordsLost,
    /// The answer may have come through a connection that the sidecar shares between sessions.
    SharedUpstream,
    /// The answer came from elsewhere, or an end was caused elsewhere, over a connection that was not seen.
    LegNotSeen,
    /// The sidecar's configuration contradicts what was captured.
    WitnessesDisagree,
    /// The answer came through ztunnel's own tunnel, behind which a waypoint or the proxy made it.
    BeyondZtunnel,
    /// The sidecar wrote a CONNECT of its own around the app's bytes.
    Rewritten,
}

impl Verdict {
    /// All verdicts, in the order of the documentation.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// How much it should alarm its reader.
    pub fn severity(self) -> Severity {
        match self {
            Self::HandledAsHttp
            | Self::Blackholed
            | Self::WrappedInTls
            | Self::Misdirected
            | Self::InterceptorDown
            | Self::AbsoluteFormRewritten => Severity::Flagged,
            Self::RefusedByProxy | Self::Unreachable | Self::Unanswered | Self::Undetermined => {
                Severity::Doubtful
            }
            Self::Tunneled | Self::Direct => Severity::Good,
        }
    }

    /// Whether the sidecar's configuration is at fault, so that a person can fix it.
    pub fn is_flagged(self) -> bool {
        self.severity() == Severity::Flagged
    }

    /// Its name in JSON, metrics and filters: `handled_as_http`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        self.get_documentation().unwrap_or_default()
    }

    /// The path of the page that explains it, from the root of the repository.
    pub fn page(self) -> String {
        format!("docs/verdicts/{self}.md")
    }
}

impl Reason {
    /// All reasons, in the order of the documentation.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name in JSON and metrics: `route_not_found`.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_says_what_it_means() {
        assert!(Verdict::ALL.iter().all(|verdict| verdict.meaning().ends_with('.')));
    }

    #[test]
    fn names_are_the_same_in_text_and_in_json() {
        for &verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.name());
            assert_eq!(verdict.name().parse(), Ok(verdict));
        }
        for &reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
