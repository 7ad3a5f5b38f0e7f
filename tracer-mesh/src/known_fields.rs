//! Which fields of Envoy's messages the evaluator understands.
//!
//! `read` fields take part in the decision; `inert` fields cannot change what becomes of a first request (statistics,
//! logs, timeouts, headers of answers). The field names are those of the v3 API, read at Envoy 1.40, and those that old
//! Istio releases wrote. `tests/envoy_api/fields.json` has all fields of these messages, and a test sets each of the others.

mod common;
mod connection;
mod http;
mod route;
#[cfg(test)]
mod table;
mod upstream;

use crate::closed_world::Message;
use crate::json::message_name;

pub(crate) use self::common::*;
pub(crate) use self::connection::*;
pub(crate) use self::http::*;
pub(crate) use self::route::*;
pub(crate) use self::upstream::*;

/// Messages by which extensions are configured.
const EXTENSIONS: [&Message; 23] = [
    &TLS_INSPECTOR,
    &HTTP_INSPECTOR,
    &ORIGINAL_DST,
    &ORIGINAL_SRC,
    &PROXY_PROTOCOL,
    &TCP_PROXY,
    &DIRECT_RESPONSE,
    &SET_FILTER_STATE,
    &NETWORK_RBAC,
    &HCM,
    &ROUTER,
    &FAULT,
    &HTTP_RBAC,
    &RBAC_PER_ROUTE,
    &FILTER_CONFIG,
    &HEADER_MUTATION,
    &DOWNSTREAM_TLS,
    &UPSTREAM_TLS,
    &TCP_STATS,
    &PROXY_PROTOCOL_UPSTREAM,
    &INTERNAL_UPSTREAM,
    &TAP,
    &UPSTREAM_HTTP,
];

/// The message of an extension's configuration, by its type. The names of the v2 API differ in the package only; a name
/// that several extensions share (`Config`, `RBAC`) has to agree as a whole.
pub(crate) fn of_extension(type_url: &str) -> Option<&'static Message> {
    let full = type_url.rsplit('/').next().unwrap_or(type_url);
    let short = message_name(full);
    let by_name = || EXTENSIONS.iter().find(|message| message_name(message.proto) == short);
    let is_shared = matches!(short, "Config" | "RBAC" | "FilterConfig");
    EXTENSIONS
        .iter()
        .find(|message| message.proto == full)
        .or_else(|| if is_shared { None } else { by_name() })
        .copied()
}
