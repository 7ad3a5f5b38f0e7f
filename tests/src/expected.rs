//! How tests name the report that they expect: `VERDICT [REASON] [STATUS] [inbound]`, several separated by `, `.

use std::fmt::Write as _;

use serde_json::Value;

use crate::script::Transcript;

/// The sidecar's HTTP listener answered 404.
pub const ROUTE_NOT_FOUND: &str = "handled_as_http route_not_found 404";
/// The CONNECT passed as TCP, and the proxy granted it.
pub const TUNNELED: &str = "tunneled 200";
/// [`TUNNELED`] where the client received 200, else [`ROUTE_NOT_FOUND`]: Envoy's HTTP inspector sometimes gives up on a request
/// that arrives in pieces, and the connection then passes as TCP.
pub const ROUTE_NOT_FOUND_OR_TUNNELED: &str = "handled_as_http route_not_found 404 or tunneled 200";

/// The short text for a report.
pub fn report_summary(report: &Value) -> String {
    let mut text = report["verdict"].as_str().unwrap_or("no verdict").to_owned();
    if let Some(reason) = report["reason"].as_str() {
        let _ = write!(text, " {reason}");
    }
    if let Some(status) = report["reply"]["status"].as_u64() {
        let _ = write!(text, " {status}");
    }
    if report["direction"] == "inbound" {
        text += " inbound";
    }
    text
}

/// What is expected on a connection, once its client has told what it received.
pub fn resolve_expected<'a>(expected: &'a str, transcript: &Transcript) -> &'a str {
    match expected {
        ROUTE_NOT_FOUND_OR_TUNNELED if transcript.status() == Some(200) => TUNNELED,
        ROUTE_NOT_FOUND_OR_TUNNELED => ROUTE_NOT_FOUND,
        expected => expected,
    }
}
