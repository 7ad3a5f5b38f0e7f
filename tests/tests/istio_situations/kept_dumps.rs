//! A few of the dumps with all defaults are kept in `tests/dumps/istio-defaults`, for tests that run without a mesh.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::known_wrong::file;
use crate::reality::{Seen, Verdict};

/// One for each way in which a sidecar treats a connection.
const KEPT: &[&str] = &[
    "allocated_tcp",
    "declared_headless_http",
    "declared_vip_tcp",
    "declared_vip_web",
    "egress_listener_http",
    "entry_tcp_none_addresses_beside_http",
    "injected_vip_tcp",
    "no_endpoints_vip_tcp",
    "registry_only_undeclared",
    "rule_tls_simple_vip_tcp",
    "undeclared",
    "undeclared_beside_cluster_ip_http",
    "virtual_service_http",
];

/// Writes the dump, and what `explain` says of the same situation's running sidecar, if it is one of those that are kept.
pub fn keep(name: &str, seen: &Seen, running: &Verdict, dump: &str) -> Result<()> {
    if !KEPT.contains(&name) {
        return Ok(());
    }
    let dir = file("dumps/istio-defaults");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("{name}.config_dump.json")), dump)?;
    let said = json!({"to": seen.dialed.to_string(), "head": String::from_utf8_lossy(&seen.head), "verdict": running.name,
        "reason": running.reason});
    Ok(fs::write(dir.join(format!("{name}.json")), format!("{said:#}\n"))?)
}
