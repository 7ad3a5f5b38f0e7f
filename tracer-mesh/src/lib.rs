//! What an Envoy sidecar does with an outbound connection, from its configuration: the decision, the object that made
//! it so, and the change that lets the connection reach the proxy. It works on a `/config_dump` that the caller
//! fetched; it does no IO, has no clock and never panics.
//!
//! The rules are Envoy's, and each names the source it comes from (envoyproxy/envoy and istio/istio, read at Envoy
//! 1.40). A connection passes the modules in order: [`Dump`] → listener → detection → chain → HTTP or TCP →
//! [`Decision`] → [`Origin`] → [`Fix`].
//!
//! ```
//! use tracer_mesh::{CURL_CONNECT, Dump, explain};
//!
//! // A sidecar with one HTTP listener that takes port 3128 on every address.
//! let dump = Dump::load(
//!     r#"{"configs": [{
//!         "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
//!         "dynamic_listeners": [
//!             {"name": "virtualOutbound", "active_state": {"listener": {
//!                 "name": "virtualOutbound", "use_original_dst": true,
//!                 "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15001}}}}},
//!             {"name": "0.0.0.0_3128", "active_state": {"listener": {
//!                 "name": "0.0.0.0_3128", "bind_to_port": false,
//!                 "address": {"socket_address": {"address": "0.0.0.0", "port_value": 3128}},
//!                 "filter_chains": [{"filters": [{
//!                     "name": "envoy.filters.network.http_connection_manager",
//!                     "typed_config": {
//!                         "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
//!                         "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [
//!                             {"match": {"prefix": "/"}, "direct_response": {"status": 502}}]}]},
//!                         "http_filters": [{"name": "envoy.filters.http.router"}]}}]}]}}}
//!         ]}]}"#
//!         .to_owned(),
//! )?;
//! let answers = explain(&dump, &["10.0.0.1:3128".parse()?], CURL_CONNECT)?;
//! // A CONNECT has no path, so no route takes it: Envoy answers by itself and never dials the proxy.
//! assert_eq!(answers[0].decision.status, Some(404));
//! assert!(answers[0].fixes[0].title.starts_with("ServiceEntry"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![deny(rustdoc::broken_intra_doc_links)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::panic,
        clippy::unreachable,
        clippy::print_stdout,
        clippy::print_stderr
    )
)]

mod candidate;
mod chain;
mod chain_choice;
mod chain_match;
mod closed_world;
mod cluster;
mod connect_target;
mod decision;
mod detection;
mod dialed;
mod dump;
mod evaluate;
mod explanation;
mod finding;
mod fix;
mod h2;
mod hcm;
mod http;
mod http_filter;
mod http_inspector;
mod index;
mod json;
mod known_fields;
mod listener;
mod manifest;
mod matcher;
mod origin;
mod overlay;
pub mod render;
mod redirect;
mod request;
mod request_changes;
mod request_line;
mod route;
mod route_lookup;
mod route_match;
mod simulated_config;
mod tcp;
mod tcp_proxy;
mod text;
mod tls_inspector;
mod tryout;
mod unsettled;

use std::net::SocketAddr;

use tracer_core::mesh_profile::DEFAULT;

pub use decision::{Arrival, ConnectionOutcome, Decision, Detected, Kind, Late};
pub use dump::{Dump, Subject};
pub use evaluate::{decide, decide_with};
pub use explanation::{Brief, Explanation, brief, explain};
pub use finding::Finding;
pub use fix::Fix;
pub use origin::Origin;
pub use overlay::Edit;
pub use tryout::{TryError, Tryout, try_objects};

/// The first bytes of an app that uses a proxy as curl does.
pub const CURL_CONNECT: &[u8] = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\
    User-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n";

/// Why a dump cannot be explained from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not JSON.
    #[error("not a config dump: {0}")]
    Json(#[from] serde_json::Error),
    /// The bytes are not UTF-8.
    #[error("not a config dump: not text from byte {} on", .0.valid_up_to())]
    NotText(#[from] std::str::Utf8Error),
    /// There is no listener in it.
    #[error(
        "the dump holds no listener: take a whole one (curl 127.0.0.1:{}/config_dump?include_eds) or one with \
         ?resource=dynamic_listeners",
        DEFAULT.admin_port
    )]
    NoListeners,
    /// There is no listener for this address and none that receives redirected connections.
    #[error(
        "the dump holds no listener for {0} and none with use_original_dst: it is not a whole sidecar's dump"
    )]
    NoEntry(SocketAddr),
    /// An entry that the decision needs cannot be parsed.
    #[error("cannot read {entry}: {source}")]
    Entry {
        /// Which entry.
        entry: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}
