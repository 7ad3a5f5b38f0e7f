//! The second witness of a report: what the interceptor's configuration says about the same request.

use serde::{Deserialize, Serialize};

use super::{Replier, Report};
use crate::verdict::{Payload, Reason, Verdict};

/// What the interceptor's configuration says about a request, as a report shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Configuration {
    /// The verdict that it leads to. Null: it does not decide.
    pub verdict: Option<Verdict>,
    /// Whether it agrees with what was captured. Null: it is not certain.
    pub agrees: Option<bool>,
    /// The version of the configuration, as the control plane numbers it.
    pub version: Option<String>,
    /// Its age when it was asked, in seconds.
    pub age_s: Option<u64>,
}

/// The answer of a configuration to the bytes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Testimony {
    /// The verdict that it leads to. `None`: it does not decide.
    pub verdict: Option<Verdict>,
    /// Every setting on the request's path is understood.
    pub certain: bool,
    /// The version of the configuration.
    pub version: Option<String>,
    /// How old it is, in seconds.
    pub age_s: Option<u64>,
}

impl Report {
    /// Whether the configuration can add to this report: it confirms or withdraws a flag, and it alone knows whether
    /// another address than the dialed one belongs to the proxy.
    pub fn needs_configuration(&self) -> bool {
        self.flagged || self.went_elsewhere()
    }

    /// Whether the app's bytes went to another address than the dialed one.
    fn went_elsewhere(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| {
            upstream.carried == Payload::SameBytes
                && (upstream.ip, upstream.port) != (self.proxy.ip, self.proxy.port)
        })
    }

    /// Compares the report with what the configuration says. A flag that the configuration contradicts is withdrawn;
    /// the result is whether that happened. Bytes that the configuration sends to a wrong address become
    /// [`Verdict::Misdirected`].
    pub fn hear(&mut self, said: Testimony) -> bool {
        let Testimony { verdict, certain, version, age_s } = said;
        let known = verdict.filter(|_| certain);
        if known == Some(Verdict::Misdirected) && !self.flagged && self.went_elsewhere() {
            self.misdirect();
        }
        let agrees = known.map(|said| is_consistent(self.verdict, said));
        let is_withdrawn = self.flagged && known.is_some_and(|said| !said.is_flagged());
        if is_withdrawn {
            self.withdraw();
        }
        self.configuration = Some(Configuration { verdict, agrees, version, age_s });
        is_withdrawn
    }

    fn misdirect(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        let to = std::net::SocketAddr::new(upstream.ip, upstream.port);
        self.explanation = format!(
            "The sidecar passed {} for the proxy {} on to {to}, which by its configuration is no address of that proxy; the app got {}",
            self.request_text(),
            self.proxy_address(),
            self.reply.as_ref().map_or_else(|| "no answer".to_owned(), |_| self.status()),
        );
        self.evidence.push(format!(
            "the sidecar's configuration sends what the app sends to {} elsewhere",
            self.proxy_address()
        ));
        self.judge_anew(Verdict::Misdirected, None);
    }

    fn withdraw(&mut self) {
        let said = self.verdict_text();
        self.explanation = format!(
            "What was captured of {} looks like {said}, but the configuration of the sidecar passes it on to the proxy {}; the two contradict each other, so neither side is blamed",
            self.request_text(),
            self.proxy_address(),
        );
        self.evidence.push("the sidecar's configuration contradicts what was captured".to_owned());
        self.judge_anew(Verdict::Undetermined, Some(Reason::WitnessesDisagree));
        (self.listener, self.manifest) = (None, None);
        if let Some(reply) = &mut self.reply {
            reply.from = Replier::Unknown;
        }
        self.answered_by = None;
    }

    fn judge_anew(&mut self, verdict: Verdict, reason: Option<Reason>) {
        (self.verdict, self.reason) = (verdict, reason);
        self.flagged = verdict.is_flagged();
        self.fix = self.flagged.then(|| verdict.page());
    }
}

/// Whether a configuration that leads to the verdict `said` may have led to the verdict `seen`. What the other side does
/// with bytes that are passed on to it is in no configuration.
fn is_consistent(seen: Verdict, said: Verdict) -> bool {
    let passes_on = [
        Verdict::Tunneled,
        Verdict::RefusedByProxy,
        Verdict::Unreachable,
        Verdict::Unanswered,
        Verdict::Undetermined,
    ];
    seen == said || (passes_on.contains(&said) && passes_on.contains(&seen))
}
