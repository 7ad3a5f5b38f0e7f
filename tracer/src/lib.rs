//! egress-tracer in userspace: the pure core, and the edges around it. Modules stand in the order in which data flows
//! through them, and use only modules above.

pub mod cli;
pub mod core;
pub mod event;
pub mod flow;
pub mod head;
pub mod metrics;
pub mod probes;
pub mod redact;
pub mod report;
pub mod session;
pub mod tracing;
pub mod verdict;
