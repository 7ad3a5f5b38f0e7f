//! egress-tracer in userspace: the pure core, and the edges around it. Modules stand in the order in which data flows
//! through them, and use only modules above.

pub mod event;
pub mod redact;
pub mod head;
pub mod flow;
pub mod verdict;
pub mod session;
pub mod report;
pub mod core;
pub mod probes;
pub mod tracing;
pub mod metrics;
pub mod cli;
