//! The lab: a pod-like network namespace with a real Envoy, an outside with real proxies, and their clean-up. The demo
//! and the end-to-end tests run in it; it knows nothing of verdicts.

mod admin;
mod agent;
mod alertmanager;
mod app;
mod attached;
mod cgroup;
mod empty_probe;
mod empty_programs;
mod envoy;
mod janitor;
mod kernel_programs;
mod lab;
mod latency;
mod lines;
pub mod load;
mod netns;
mod network;
mod pause;
mod place;
mod process;
mod ready;
mod program_runs;
mod prometheus;
mod script;
mod scripted_proxy;
mod squid;
mod target;
mod terminal;
mod tracer;
mod usage;
mod watch;

use std::path::PathBuf;

pub use admin::get;
pub use agent::Agent;
pub use alertmanager::Alertmanager;
pub use attached::{ATTACH_TYPES, attached};
pub use cgroup::Cgroup;
pub use empty_probe::{EmptyProbes, Probe};
pub use empty_programs::{EmptyPrograms, count_runs};
pub use envoy::{
    Envoy, OLDEST as ENVOY_OLDEST, Options as EnvoyOptions, VERSION as ENVOY_VERSION, cached as cached_envoy,
};
pub use janitor::Janitor;
pub use kernel_programs::{KernelProgram, kernel_programs};
pub use lab::{Lab, is_root};
pub use latency::line_latencies;
pub use lines::Lines;
pub use netns::Netns;
pub use network::{POD, POD_V6, PROXY, PROXY_V6, TARGET};
pub use pause::pause;
pub use place::Place;
pub use process::{Ended, Process};
pub use program_runs::{Runs, program_runs};
pub use prometheus::Prometheus;
pub use ready::spawn_ready;
pub use script::{Close, Script, Step, Transcript, bytes, text};
pub use scripted_proxy::{Behaviour, ScriptedProxy};
pub use squid::{Policy, Squid};
pub use target::{PAGE, Target};
pub use terminal::Terminal;
pub use tracer::{Tracer, binary as tracer_binary};
pub use usage::Usage;
pub use watch::{Watch, canonical, key};

/// The configuration that has every treatment of a CONNECT on a port of its own; see its `xds/lds.yaml`.
pub fn full_sidecar() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sidecars/full"))
}

/// Where `cargo xtask setup` puts the wheel with the schemas of Kubernetes' objects.
pub fn cached_schemas() -> PathBuf {
    envoy::cache().join("kubernetes-schemas/1.37.0.whl")
}

/// Where `cargo xtask setup` puts a containerd that tells of changes, with its shim beside it.
pub fn cached_containerd() -> PathBuf {
    envoy::cache().join("containerd/trixie/root/usr/bin/containerd")
}

/// The folder of one of the twelve cases.
pub fn case(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).join(name)
}

/// The configuration in which an unrelated HTTP Service owns the proxy's port; `fixed/lds.yaml` in it is the remedy.
pub fn demo_sidecar() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sidecars/demo"))
}
