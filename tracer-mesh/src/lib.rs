//! The sidecar's own view: what Envoy, as configured by istiod, decides about an outbound connection, whose object
//! made it so, and what change would let the connection through. Pure: it works on a `/config_dump` that someone
//! else fetched; no IO, no clock, no async, no panic.
//!
//! The rules are Envoy's, and each one names the source that it comes from (envoyproxy/envoy and istio/istio, read at
//! Envoy 1.40). The way of a connection is the way of the modules: [`Dump`] → listener → detection → chain → HTTP or
//! TCP → [`Decision`] → culprits → fixes.

#![forbid(unsafe_code)]
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

mod chain_match;
mod cluster;
mod connect_target;
mod origin;
mod decision;
mod dump;
mod simulated_config;
mod evaluate;
mod explanation;
mod fix;
mod h2;
mod hcm;
mod index;
mod http;
mod http_inspector;
mod json;
mod listener;
mod manifest;
pub mod render;
mod request;
mod request_line;
mod route;
mod route_match;
mod tcp_proxy;
mod tls_inspector;
mod overlay;
mod text;

use std::net::SocketAddr;

pub use decision::{Decision, Detected, Kind, Outcome};
pub use dump::Dump;
pub use evaluate::{decide, decide_with};
pub use explanation::{Brief, Explanation, brief, explain};
pub use fix::Fix;
pub use origin::Culprit;
pub use overlay::Edit;

/// What an app sends first, where no `--head` says otherwise.
pub const CURL_CONNECT: &[u8] = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\
    User-Agent: curl/8.5.0\r\nProxy-Connection: Keep-Alive\r\n\r\n";

/// Why a dump cannot be explained from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not JSON; where it stops being so.
    #[error("not a config dump: {0}")]
    Json(String),
    /// The bytes are not UTF-8; how many of them are.
    #[error("not a config dump: not text from byte {0} on")]
    NotText(usize),
    /// There is no listener in it.
    #[error(
        "the dump holds no listener: take a whole one (curl 127.0.0.1:15000/config_dump?include_eds) or one with \
         ?resource=dynamic_listeners"
    )]
    NoListeners,
    /// There is no listener for this address and none that redirected connections enter by.
    #[error(
        "the dump holds no listener for {0} and none with use_original_dst: it is not a whole sidecar's dump"
    )]
    NoEntry(SocketAddr),
    /// An entry that the decision needs is not what it should be: which, and how.
    #[error("cannot read {0}: {1}")]
    Entry(String, String),
}

impl Error {
    fn json(error: &serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}
