//! The whole answer for one proxy: the decision for each of its addresses, the objects that made it so, and the fixes;
//! and its short form for a report.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use tracer_core::verdict::Verdict;

use super::candidate::{Failure, sidecar_of};
use super::decision::{ConnectionOutcome, Decision, Place};
use super::dump::{Dump, Subject};
use super::evaluate::decide;
use super::finding::Finding;
use super::fix::{self, Fix};
use super::origin::{self, Origin, Origins};
use super::{Error, text};

/// The answer for one address, in the form of the JSON contract.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    v: u8,
    /// The address that the app dials.
    pub to: SocketAddr,
    /// The stable code of the cause, such as `ET0101`; [`Finding`] has all of them.
    pub code: Option<&'static str>,
    /// Whose dump it is, and how old.
    pub subject: Subject,
    /// What is taken for granted, because no dump has it, a sentence each.
    pub assumed: BTreeMap<&'static str, String>,
    /// What the sidecar decides.
    #[serde(flatten)]
    pub decision: Decision,
    /// The objects at fault; of very many, the first 50.
    pub origins: Vec<Origin>,
    /// Why, in one or two sentences.
    pub explanation: String,
    /// What to change, best first.
    pub fixes: Vec<Fix>,
    /// Why there is no fix, where one is needed.
    pub no_fix_because: Option<&'static str>,
    /// How many objects are at fault.
    #[serde(skip)]
    pub origins_total: usize,
}

/// What a flagged report says about the sidecar's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Brief {
    /// The listener's name.
    pub listener: Option<String>,
    /// What made the listener so: `Service shop/web port 3128 (HTTP)`; `None` where the dump does not say.
    pub because: Option<String>,
    /// The best fix's title; `None` where none was proven.
    pub fix: Option<String>,
    /// Its manifest.
    pub manifest: Option<String>,
    /// The configuration passes the connection on to the proxy as it is: there is nothing to explain.
    pub reaches_proxy: bool,
    /// The verdict of a report on such a connection. `None`: the configuration does not decide.
    pub verdict: Option<Verdict>,
    /// Every setting on the way of the connection is understood.
    pub certain: bool,
}

/// Explains connections to each of `to`, which are the addresses of one proxy, with the app's first bytes `head`.
///
/// Every explanation carries the same fixes, which are for all of the addresses that fail.
pub fn explain(dump: &Dump, to: &[SocketAddr], head: &[u8]) -> Result<Vec<Explanation>, Error> {
    let mut parts = Vec::new();
    for address in to {
        let mut decision = decide(dump, *address, head)?;
        // Where the sidecars speak the mesh's mTLS to each other, the Service's own port decides for both.
        if decision.outcome == ConnectionOutcome::Tunnel
            && decision.inner.place == Place::Entry
            && let Some(service) = sidecar_of(dump, address.ip())?
        {
            decision.note(format!(
                "the proxy's pod has a sidecar of its own ({address} is an endpoint of {service}), which decides about the bytes \
                 next: explain that pod's dump too"
            ));
        }
        let origins = Origins::of(dump, &decision)?;
        parts.push((*address, decision, origins));
    }
    let failures: Vec<Failure<'_>> = parts
        .iter()
        .filter(|(_, decision, _)| decision.is_fault())
        .map(|(to, decision, origins)| Failure { to: *to, decision, origins })
        .collect();
    let reached: Vec<(SocketAddr, &Decision)> = parts
        .iter()
        .filter(|(_, decision, _)| decision.reaches_proxy())
        .map(|(to, decision, _)| (*to, decision))
        .collect();
    let fixes = fix::fixes(dump, &failures, &reached, head)?;
    let subject = dump.subject();
    let no_fix_because = (fixes.is_empty() && !failures.is_empty()).then(|| fix::no_fix_because(&failures));
    let explained = |(to, decision, origins): (SocketAddr, Decision, Origins)| Explanation {
        v: 1,
        to,
        code: finding(dump, to, &decision, &origins).map(|finding| finding.code),
        subject: subject.clone(),
        assumed: assumed(dump, &decision),
        explanation: text::explanation(to, &decision, &origins),
        decision,
        origins: origins.list,
        fixes: fixes.clone(),
        no_fix_because,
        origins_total: origins.total,
    };
    Ok(parts.into_iter().map(explained).collect())
}

fn finding(dump: &Dump, to: SocketAddr, decision: &Decision, origins: &Origins) -> Option<Finding> {
    let service = origin::service_at(dump, decision, to.ip()).ok().flatten();
    Finding::of(decision, origins, service.is_some())
}

/// What the answer takes for granted.
fn assumed(dump: &Dump, decision: &Decision) -> BTreeMap<&'static str, String> {
    let mut assumed = BTreeMap::new();
    let is_asked = !matches!(decision.inner.place, Place::NotRedirected) && !decision.inner.is_gateway;
    if is_asked && !dump.identity().is_known() {
        let text = "the connection is redirected to the sidecar: the dump has no node metadata that could say otherwise";
        assumed.insert("redirect", text.to_owned());
    }
    if decision.detected.is_some() {
        let text = "the app's own address and port match no rule of a filter chain";
        assumed.insert("source", text.to_owned());
    }
    assumed
}

/// The short form, for a report.
pub fn brief(dump: &Dump, to: SocketAddr, head: &[u8]) -> Result<Brief, Error> {
    let decision = decide(dump, to, head)?;
    let origins = Origins::of(dump, &decision)?;
    let doubt = decision.caveats.first().map(|caveat| format!("not certain: {caveat}"));
    let because = match (text::because(&decision, &origins), doubt) {
        (Some(because), Some(doubt)) => Some(format!("{because}; {doubt}")),
        (because, doubt) => because.or(doubt),
    };
    let failed = decision.is_fault();
    let failure = Failure { to, decision: &decision, origins: &origins };
    let fixes = if failed { fix::fixes(dump, &[failure], &[], head)? } else { Vec::new() };
    let (fix, manifest) = fixes.into_iter().next().map(|fix| (fix.title, fix.manifest)).unzip();
    Ok(Brief {
        reaches_proxy: decision.reaches_proxy(),
        verdict: decision.verdict,
        certain: decision.certain,
        listener: decision.listener,
        because,
        fix,
        manifest,
    })
}
