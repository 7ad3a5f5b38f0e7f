//! The wait for istiod: when has a change of objects reached a sidecar? A marker is written after the change; what has the
//! marker has the change. (istiod merges events that come within its debounce period into one push.)

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Mesh, Pod, TIMEOUT, next};
use crate::lines::Lines;

/// The cluster that the marker adds to every sidecar, whatever its scope. Nothing is ever sent to it.
const CLUSTER: &str = "lab-marker";

/// The counters that say which push was taken, and whether the workers have it.
const STATS: &str = "^(listener_manager|cluster_manager)\\.(.*version_text|.*warming.*|.*_success|listener_added|\
                     listener_modified|listener_in_place_updated|total_listeners_active)$";

impl Mesh {
    /// Waits until each of `pods` has what istiod makes of all that was applied before, and until cluster IPs lead where they
    /// should.
    pub fn wait_push(&self, pods: &[&Pod]) -> Result<()> {
        self.sync_cluster_ips()?;
        let number = next(&self.marker) + 1;
        self.api.apply(&marker(number))?;
        pods.iter().filter(|pod| pod.agent().is_some()).try_for_each(|pod| pod.wait_marker(number))
    }

    /// The number of the last marker.
    pub(super) fn last_marker(&self) -> u64 {
        self.marker.load(Ordering::Relaxed)
    }
}

impl Pod {
    fn wait_marker(&self, number: u64) -> Result<()> {
        let log = self.agent().context("a pod with a sidecar")?.process().stderr();
        let taken = poll(log, TIMEOUT, || self.has_marker(number).map(|has| has.then_some(())))?;
        taken.with_context(|| {
            format!("istiod's push did not reach {} within {TIMEOUT:?}; its log: {}", self.name(), log.text())
        })
    }

    fn has_marker(&self, number: u64) -> Result<bool> {
        let path = format!("config_dump?resource=dynamic_active_clusters&name_regex=^{CLUSTER}$");
        let dump: Value = serde_json::from_str(&self.admin(&path)?)?;
        if number_of(&dump["configs"][0]["cluster"], "filter_metadata").is_none_or(|found| found < number) {
            return Ok(false);
        }
        let stats: Value =
            serde_json::from_str(&self.admin(&format!("stats?format=json&filter={}", encode(STATS)))?)?;
        Ok(is_in_force(&stats))
    }
}

/// The marker's number in a whole dump in the spelling of protobuf's JSON.
pub(super) fn marker_of(dump: &Value) -> Option<u64> {
    let configs = dump["configs"].as_array()?;
    let mut clusters =
        configs.iter().filter_map(|config| config["dynamicActiveClusters"].as_array()).flatten();
    let marker = clusters.find(|entry| entry["cluster"]["name"] == CLUSTER)?;
    number_of(&marker["cluster"], "filterMetadata")
}

/// The marker's number in its cluster. Envoy prints it as `7`, protobuf's JSON as `7.0`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of pushes")]
fn number_of(cluster: &Value, metadata: &str) -> Option<u64> {
    let number = &cluster["metadata"][metadata]["lab"]["marker"];
    number.as_u64().or_else(|| number.as_f64().map(|number| number as u64))
}

/// Whether listeners and clusters are of one push, none is warming, and the workers have every listener.
fn is_in_force(stats: &Value) -> bool {
    let stats = stats["stats"].as_array().map(Vec::as_slice).unwrap_or_default();
    let get = |name: &str| stats.iter().find(|stat| stat["name"] == name).map(|stat| &stat["value"]);
    let number = |name: &str| get(name).and_then(Value::as_u64).unwrap_or(0);
    let version = |name: &str| get(name).and_then(Value::as_str).filter(|version| !version.is_empty());
    let listeners = version("listener_manager.lds.version_text");
    listeners.is_some()
        && listeners == version("cluster_manager.cds.version_text")
        && number("listener_manager.total_listeners_warming") == 0
        && number("cluster_manager.warming_clusters") == 0
}

fn marker(number: u64) -> Value {
    let cluster = json!({"name": CLUSTER, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": CLUSTER}, "metadata": {"filter_metadata": {"lab": {"marker": number}}}});
    json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": CLUSTER, "namespace": "istio-system"},
        "spec": {"configPatches": [{"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": cluster}}]}})
}

/// Asks `test` until it finds what it looks for: after each line that is logged, and now and then besides, because not every
/// change is logged. `None` when the time has run out; an error when the writer of the log has ended.
pub(super) fn poll<T>(
    log: &Lines,
    timeout: Duration,
    mut test: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let end = Instant::now() + timeout;
    let mut known = 0;
    loop {
        if let Some(found) = test()? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        ensure!(!log.wait_end(Duration::ZERO), "the process has ended; it said: {}", log.text());
        known = log
            .wait(Duration::from_millis(50), |lines| (lines.len() > known).then_some(lines.len()))
            .unwrap_or(known);
    }
}

/// Percent-encodes all but letters and digits.
fn encode(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}
