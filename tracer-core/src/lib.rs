//! The pure engine of egress-tracer: kernel events go in, one report for each request comes out.
//!
//! ```text
//! Event -> Redactor -> Engine ( Connection + UpstreamSocket -> Evidence -> Verdict ) -> Report
//! ```
//!
//! It does no IO, has no clock (time arrives inside its inputs), runs no tasks and never panics, so a recording of its
//! inputs replays to the same bytes. Modules stand in the order in which data flows through them.
//!
//! # Example
//!
//! An app dials the proxy 10.0.0.1:3128 and sends a CONNECT; the sidecar accepts the connection on port 15001 and answers
//! 404 itself. Inputs are written here as a recording has them.
//!
//! ```
//! use tracer_core::{
//!     engine::{Engine, Input, Settings},
//!     verdict::{Reason, Verdict},
//! };
//!
//! let mut engine = Engine::new(Settings { clock_offset: 1_795_175_115_000_000_000, ..Settings::default() });
//! let inputs = [
//!     r#"{"event": {"time": 2000000, "flow": 1, "role": "app", "opened": 1000000, "netns": 1, "uid": 1000, "lost": 0,
//!         "sidecar": {"port": 15001, "netns": 1}, "task": null,
//!         "local": "10.244.1.5:60218", "remote": "10.0.0.1:3128",
//!         "what": {"sent": {"offset": 0, "total": 40, "data": "CONNECT www.example.com:443 HTTP/1.1\r\n\r\n"}}}}"#,
//!     r#"{"event": {"time": 2400000, "flow": 2, "role": "reply", "opened": 1100000, "netns": 1, "uid": 1337, "lost": 0,
//!         "sidecar": null, "task": null,
//!         "local": "127.0.0.1:15001", "remote": "10.244.1.5:60218",
//!         "what": {"sent": {"offset": 0, "total": 26, "data": "HTTP/1.1 404 Not Found\r\n\r\n"}}}}"#,
//! ];
//! let mut reports = Vec::new();
//! for input in inputs {
//!     let input: Input = serde_json::from_str(input)?;
//!     engine.feed(input, &mut reports);
//! }
//!
//! let [report] = &reports[..] else { panic!("one request, one report") };
//! assert_eq!((report.verdict, report.reason), (Verdict::HandledAsHttp, Some(Reason::RouteNotFound)));
//! assert_eq!(report.target(), "www.example.com:443");
//! assert!(report.flagged);
//! # Ok::<(), serde_json::Error>(())
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

pub mod escape;
pub mod event;
pub mod mesh_profile;
pub mod selector;
pub mod pod;
pub mod head;
pub mod redact;
pub mod verdict;
pub mod report;
pub mod filter;
pub mod engine;
