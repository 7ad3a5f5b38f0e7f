//! What to change so that the CONNECT reaches the proxy, best first. Each fix is proven before it is shown: its effect is
//! laid over the dump and the connection is decided again. A fix that does not end in a tunnel is dropped.

use std::net::SocketAddr;

use serde::Serialize;

use super::Error;
use super::candidate::{Candidate, Failure, candidates};
use super::decision::{Decision, Place};
use super::dump::Dump;
use super::evaluate::decide_with;
use super::overlay::Edit;

/// A change that works on the dump.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fix {
    /// What it does, in one line.
    pub title: String,
    /// How the manifest, saved as `fix.yaml`, is applied.
    pub apply: String,
    /// YAML.
    pub manifest: String,
    /// What it may cost, in a few words.
    pub risk: &'static str,
    /// What it costs, and what to watch.
    pub trade_off: String,
    /// How it was proven, or what the proof rests on.
    pub proof: String,
    /// Whether everything on the way of the connection is understood with the change applied.
    pub proven: bool,
    /// Whose dump it was made for, how old that is, and what is not certain: lines for a comment.
    #[serde(skip)]
    pub about: Vec<String>,
    /// What istiod would change in the sidecar.
    #[serde(skip)]
    pub edit: Edit,
}

/// The fixes for all of `failures`, which share the proxy and the app's first bytes `head`.
///
/// `reached` are addresses of the same proxy that are well, with what the sidecar decides about them.
pub(crate) fn fixes(
    dump: &Dump,
    failures: &[Failure<'_>],
    reached: &[(SocketAddr, &Decision)],
    head: &[u8],
) -> Result<Vec<Fix>, Error> {
    let mut proven = Vec::new();
    let about = about(dump, failures);
    for candidate in candidates(dump, failures, reached)? {
        if let Some(fix) = prove(dump, candidate, head)? {
            proven.push(Fix { about: about.clone(), ..fix });
        }
    }
    Ok(proven)
}

/// What a manifest was made from.
fn about(dump: &Dump, failures: &[Failure<'_>]) -> Vec<String> {
    let subject = dump.subject();
    let pod = subject.pod.map_or_else(|| "a sidecar's configuration".to_owned(), |pod| format!("pod {pod}"));
    let release = subject.istio_version.map(|version| format!(" (Istio {version})")).unwrap_or_default();
    let changed = match (subject.config_updated, subject.config_age_s) {
        (Some(time), Some(age)) => format!(", last changed {time}, {age} s before it was read"),
        (Some(time), None) => format!(", last changed {time}"),
        (None, _) => String::new(),
    };
    let mut lines = vec![format!("Made for {pod}{release}{changed}.")];
    let mut caveats: Vec<&String> = failures.iter().flat_map(|failure| &failure.decision.caveats).collect();
    caveats.sort();
    caveats.dedup();
    lines.extend(caveats.into_iter().map(|caveat| format!("Not certain: {caveat}.")));
    lines
}

/// Applies a candidate to the dump and decides again; `None` unless every address it is for reaches its proxy.
fn prove(dump: &Dump, candidate: Candidate, head: &[u8]) -> Result<Option<Fix>, Error> {
    let mut ends = Vec::new();
    let mut caveats: Vec<String> = Vec::new();
    for to in &candidate.cures {
        let decision = decide_with(dump, &candidate.edit, *to, head)?;
        caveats.extend(decision.caveats.iter().cloned());
        if !decision.reaches_proxy() {
            return Ok(None);
        }
        ends.push(match (&decision.listener, &decision.cluster, decision.inner.place) {
            (_, _, Place::NotRedirected) => format!("{to} bypasses Envoy"),
            (Some(listener), Some(cluster), _) => format!("{to} takes {listener} to {cluster} as TCP"),
            (_, _, Place::Exact | Place::Wildcard | Place::Entry) => format!("{to} passes as TCP"),
        });
    }
    caveats.extend(candidate.unless.clone());
    let proven = caveats.is_empty();
    let ends = ends.join("; ");
    let proof = match caveats.first() {
        None => format!("Proven on this dump: with it applied, {ends}."),
        Some(caveat) => format!("Not proven: with it applied, {ends}, unless {caveat}."),
    };
    let Candidate { title, apply, manifest, risk, trade_off, edit, cures: _, unless: _ } = candidate;
    let manifest = manifest.yaml();
    Ok(Some(Fix { title, apply, manifest, risk, trade_off, proof, proven, about: Vec::new(), edit }))
}

/// Why no fix was found for `failures`.
pub(crate) fn no_fix_because(failures: &[Failure<'_>]) -> &'static str {
    let any = |is: fn(&Decision) -> bool| failures.iter().any(|failure| is(failure.decision));
    if any(|decision| decision.inner.is_gateway) {
        "the dump is of a gateway, which neither a ServiceEntry nor a redirect annotation changes"
    } else if any(|decision| decision.inner.is_inbound) {
        "the answer is that of the inbound side: declare the proxy's own port as TCP"
    } else if any(|decision| decision.inner.no_host) {
        "the service has no endpoint: its pods have to run and be ready"
    } else if any(|decision| !decision.caveats.is_empty()) {
        "the connection passes what is not evaluated here"
    } else {
        "no change of ours makes this connection reach the proxy"
    }
}
