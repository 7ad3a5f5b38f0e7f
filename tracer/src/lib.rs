//! The node program: loads the probes, runs the engine of `tracer-core` on what they record, and serves its reports to
//! terminals, files, sockets and Prometheus. Modules stand in the order in which data flows through them; each uses only
//! modules above it.

pub mod files;
pub mod terminal;
pub mod throttled;
pub mod recording;
pub mod netns;
pub mod pid_namespace;
pub mod token_bucket;
pub mod http_server;
pub mod health_server;
pub mod probes;
pub mod privilege;
pub mod runtime;
pub mod pipeline;
pub mod metrics;
pub mod explain;
pub mod enrich;
pub mod audit;
pub mod live;
pub mod flagged_log;
pub mod top;
pub mod cli;
