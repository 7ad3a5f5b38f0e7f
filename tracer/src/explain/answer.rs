//! An explanation with what it rests on: whose configuration, and what was assumed. Its JSON is the contract of
//! `egress-tracer explain -o json`.

use serde::Serialize;
use tracer_core::verdict::Reason;
use tracer_mesh::{ConnectionOutcome, Decision, Explanation, Subject};

/// The answer for one address.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    #[serde(flatten)]
    pub explanation: Explanation,
    /// The name that was resolved to the address.
    pub name: Option<String>,
    /// What the candidate of `--try` would make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried: Option<Tried>,
}

/// `shop/cart-7d9, Istio 1.20.8, configuration 5 min old`.
pub(super) fn whose(subject: &Subject) -> String {
    let pod = subject.pod.as_deref().unwrap_or("a pod that the input does not name");
    let mut text = pod.to_owned();
    if let Some(version) = &subject.istio_version {
        text.push_str(", Istio ");
        text.push_str(version);
    }
    text.push_str(", configuration ");
    match subject.config_age_s {
        Some(seconds) => text.push_str(&(age(seconds) + " old")),
        None => text.push_str("of unknown age"),
    }
    text
}

/// A duration in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A decision with a candidate applied.
#[derive(Debug, Serialize)]
pub(super) struct Tried {
    /// What becomes of the connection then.
    #[serde(flatten)]
    pub decision: Decision,
    /// Whether the proxy then gets the app's bytes.
    pub reaches_proxy: bool,
    /// What the laying over leaves open, a sentence each.
    pub candidate_caveats: Vec<String>,
    /// Why a part of the candidate changes nothing, a sentence each.
    pub candidate_notes: Vec<String>,
}

/// An address or a name that could not be answered.
#[derive(Debug, Serialize)]
pub(super) struct Unanswered {
    v: u8,
    pub to: String,
    pub error: String,
}

impl Unanswered {
    pub(super) fn new(to: String, error: &anyhow::Error) -> Self {
        Self { v: 1, to, error: format!("{error:#}") }
    }
}

/// How bad a decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The proxy gets the app's bytes.
    Good,
    /// Not known.
    Doubtful,
    /// The proxy does not get them.
    Bad,
}

/// How bad the decision is, as far as it is known.
pub(super) fn severity(decision: &Decision) -> Severity {
    let is_fine = decision.reaches_proxy();
    let is_open = decision.outcome == ConnectionOutcome::Pending
        || decision.verdict.is_some_and(|verdict| !verdict.is_flagged());
    match (is_fine, decision.certain) {
        (true, true) => Severity::Good,
        (true, false) => Severity::Doubtful,
        (false, _) if is_open => Severity::Doubtful,
        (false, _) => Severity::Bad,
    }
}

/// `handled_as_http route_not_found 404`, with Envoy's own details where they say more.
pub(super) fn headline(decision: &Decision) -> String {
    let mut words: Vec<String> = Vec::new();
    match decision.verdict {
        Some(verdict) => words.push(verdict.name().to_owned()),
        None => words.push(outcome(decision.outcome).to_owned()),
    }
    let reason = decision.reason.map(Reason::name);
    words.extend(reason.map(str::to_owned));
    words.extend(decision.status.map(|status| status.to_string()));
    words.extend(decision.details.clone().filter(|details| reason != Some(details.as_str())));
    words.join("  ")
}

/// What becomes of bytes that no verdict is for.
fn outcome(outcome: ConnectionOutcome) -> &'static str {
    match outcome {
        ConnectionOutcome::LocalReply => "answered by Envoy",
        ConnectionOutcome::Tunnel => "passed on",
        ConnectionOutcome::Elsewhere => "sent elsewhere",
        ConnectionOutcome::Answered => "answered by a filter",
        ConnectionOutcome::Forward => "rewritten",
        ConnectionOutcome::Terminate => "terminated",
        ConnectionOutcome::Close => "closed",
        ConnectionOutcome::Pending => "undecided",
    }
}
