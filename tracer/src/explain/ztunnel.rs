//! What the dump of a ztunnel says about proxies. It is no configuration to explain from: ztunnel passes bytes on and reads
//! no HTTP, so only a waypoint of the destination can answer a CONNECT.
//!
//! Source: istio/ztunnel `src/admin.rs` (`/config_dump`), `src/state/workload.rs`, `src/state/service.rs`.

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct ZtunnelDump {
    #[serde(default)]
    workloads: Vec<Value>,
    #[serde(default)]
    services: Vec<Value>,
}

/// The most waypoints that are named.
const NAMED: usize = 5;

/// Why a ztunnel's dump is refused, and what to ask instead.
pub(super) fn refusal(text: &str) -> String {
    let why =
        "is a ztunnel's dump: ztunnel passes bytes on and reads no HTTP, so it answers no CONNECT itself";
    let waypoints = serde_json::from_str(text).map(|dump: ZtunnelDump| waypoints(&dump)).unwrap_or_default();
    if waypoints.is_empty() {
        return format!(
            "{why}; no Service or workload in it has a waypoint, so any answer is the proxy's own"
        );
    }
    let named: Vec<String> = waypoints.iter().take(NAMED).cloned().collect();
    let more = match waypoints.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{why}; a waypoint can ({}{more}): explain the waypoint's own dump (kubectl exec in its pod, port 15000)",
        named.join(", ")
    )
}

/// What goes through a waypoint: `Service infra/squid through infra/waypoint`.
fn waypoints(dump: &ZtunnelDump) -> Vec<String> {
    let of = |kind: &str, object: &Value| {
        let waypoint = object.get("waypoint").filter(|waypoint| !waypoint.is_null())?;
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("?");
        let destination = waypoint.get("destination").map_or_else(
            || "a waypoint".to_owned(),
            |destination| {
                match destination {
                    Value::String(text) => text.clone(),
                    // `{"hostname": {"namespace", "hostname"}}` or the fields themselves, by version.
                    other => {
                        let name = other.get("hostname").unwrap_or(other);
                        name.as_str()
                            .or_else(|| name.get("hostname")?.as_str())
                            .unwrap_or("a waypoint")
                            .to_owned()
                    }
                }
            },
        );
        let sentence = format!("{kind} {}/{} through {destination}", text("namespace"), text("name"));
        Some(tracer_core::escape::escape(&sentence).into_owned())
    };
    let services = dump.services.iter().filter_map(|object| of("Service", object));
    services.chain(dump.workloads.iter().filter_map(|object| of("workload", object))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waypoints_are_named_as_those_to_ask() {
        let text = r#"{"workloads": [{"name": "squid-0", "namespace": "infra", "workloadIps": ["10.0.0.1"]}],
            "services": [{"name": "squid", "namespace": "infra", "vips": ["/10.96.0.9"],
                "waypoint": {"destination": "infra/waypoint.infra.svc.cluster.local", "hboneMtlsPort": 15008}}]}"#;
        let refusal = refusal(text);
        assert!(refusal.contains("Service infra/squid through infra/waypoint"), "{refusal}");
        let none = super::refusal(r#"{"workloads": [], "services": []}"#);
        assert!(none.contains("the proxy's own"), "{none}");
    }
}
