//! Whose dump it is, and how old.

use serde::Serialize;

use super::Dump;

/// Whose dump it is, and how old its configuration is. What the dump does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// `NAMESPACE/NAME` of the pod.
    pub pod: Option<String>,
    /// The sidecar's release.
    pub istio_version: Option<String>,
    /// When the newest of its listeners was changed (RFC 3339).
    pub config_updated: Option<String>,
    /// How long before the dump that was, in seconds; only where the time of the dump is known ([`Dump::taken_at`]).
    pub config_age_s: Option<u64>,
}

impl Dump {
    /// Whose dump it is, and how old.
    pub fn subject(&self) -> Subject {
        let identity = self.identity();
        let updated = self.last_updated.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let age = updated.zip(self.taken_at).map(|(updated, now)| now - updated.as_second());
        Subject {
            pod: identity.pod(),
            istio_version: identity.version(),
            config_updated: self.last_updated.clone(),
            config_age_s: age.and_then(|age| u64::try_from(age).ok()),
        }
    }
}
