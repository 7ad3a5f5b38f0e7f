//! egress-tracer in userspace: the pure core, and the edges around it. Modules stand in the order in which data flows
//! through them and use only modules above; `tests/house.rs` holds that.

// Pure: no IO, no clock, no async, no panic.
pub mod address;
pub mod beside;
pub mod place;
pub mod queue;
pub mod latest;
pub mod event;
pub mod selector;
pub mod pod;
pub mod head;
pub mod redact;
pub mod flow;
pub mod verdict;
pub mod session;
pub mod report;
pub mod filter;
pub mod core;
pub mod mesh;

// The edges.
pub mod trace;
pub mod probes;
pub mod privilege;
pub mod runtime;
pub mod tracing;
pub mod metrics;
pub mod explain;
pub mod enrich;
pub mod live;
pub mod flagged_log;
pub mod top;
pub mod cli;
