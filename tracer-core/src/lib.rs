//! The pure engine of egress-tracer: kernel events go in, one report for each request comes out.
//!
//! ```text
//! Event -> Redactor -> Engine ( Connection + Upstream -> Evidence -> Verdict ) -> Report
//! ```
//!
//! It does no IO, has no clock (time arrives inside its inputs), runs no tasks and never panics, so a recording of its
//! inputs replays to the same bytes. Modules stand in the order in which data flows through them; each uses only
//! modules above it.
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

pub mod address;
pub mod beside;
pub mod escape;
pub mod latest;
pub mod place;
pub mod queue;
pub mod event;
pub mod mesh_profile;
pub mod selector;
pub mod pod;
pub mod head;
pub mod redact;
pub mod flow;
pub mod verdict;
pub mod connection;
pub mod report;
pub mod filter;
pub mod engine;
