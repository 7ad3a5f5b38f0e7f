//! The lab: a pod-like network namespace with a real Envoy, an outside with real proxies, and their removal. The demo,
//! the benchmark and the end-to-end tests run in it.

mod agent;
mod alertmanager;
mod app;
mod attached_programs;
mod cgroup;
mod empty_probes;
mod empty_programs;
mod envoy;
mod expected;
mod foreign_programs;
mod janitor;
mod kernel_programs;
mod lab;
mod latency;
mod lines;
pub mod load;
mod mesh;
mod netns;
mod network;
mod place;
mod process;
mod wait;
mod program_runs;
mod prometheus;
mod script;
mod scripted_proxy;
mod squid;
mod target;
mod terminal;
mod tracer;
mod usage;
mod tracer_watch;

use std::path::PathBuf;

pub use agent::Agent;
pub use alertmanager::Alertmanager;
pub use app::built_program;
pub use attached_programs::{ATTACH_TYPES, attached_programs};
pub use cgroup::TestCgroup;
pub use empty_probes::{EmptyProbes, ProbePoint};
pub use empty_programs::{EmptyPrograms, count_runs};
pub use envoy::{ENVOY_OLDEST, ENVOY_VERSION, Envoy, EnvoyOptions, cached_envoy};
pub use expected::{
    ROUTE_NOT_FOUND, ROUTE_NOT_FOUND_OR_TUNNELED, TUNNELED, report_summary, resolve_expected,
};
pub use foreign_programs::{CloseCounter, FOREIGN_LEVEL, OptionHandler};
pub use janitor::Janitor;
pub use kernel_programs::{KernelProgram, kernel_programs};
pub use lab::{Lab, is_root};
pub use latency::line_latencies;
pub use lines::Lines;
pub use mesh::{
    CHART_CRDS, DEFAULT_ISTIOD, ISTIO_FILES, MESH_BUILD_FLAGS, MESH_PAGE, MESH_PROGRAMS, Mesh, MeshOptions,
    Pod, PodOptions, Seed, Sidecar, Wire, WireFlow, cached_helm, cached_mesh, helm, helm_module, mesh_module,
};
pub use netns::Netns;
pub use network::{POD, POD_V6, PROXY, PROXY_V6, TARGET, proxy_addr};
pub use place::Place;
pub use process::{Process, ProcessOutput};
pub use program_runs::{Runs, program_runs};
pub use prometheus::{Prometheus, accelerated_rules};
pub use script::{Close, Script, Step, Transcript, latin1_bytes, latin1_text};
pub use scripted_proxy::{Behavior, ScriptedProxy};
pub use squid::{Squid, SquidPolicy};
pub use target::{PAGE, Target};
pub use terminal::Terminal;
pub use tracer::{Tracer, tracer_binary};
pub use tracer_watch::{TracerWatch, canonical_address, connection_key};
pub use usage::{Usage, process_memory_kb};
pub use wait::{pause, spawn_ready};

/// A configuration with every treatment of a CONNECT, on a port each: `sidecars/full/xds/lds.yaml` lists them.
pub fn full_sidecar() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sidecars/full"))
}

/// Where `cargo xtask setup` puts the wheel with the schemas of Kubernetes objects.
pub fn cached_schemas() -> PathBuf {
    envoy::cache_dir().join("kubernetes-schemas/1.37.0.whl")
}

/// Where `cargo xtask setup` puts a containerd that streams container events, with its shim beside it.
pub fn cached_containerd() -> PathBuf {
    envoy::cache_dir().join("containerd/trixie/root/usr/bin/containerd")
}

/// The folder of a case.
pub fn case_dir(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).join(name)
}

/// A configuration in which an unrelated HTTP Service owns the proxy's port. `fixed/lds.yaml` in it is the repair.
pub fn demo_sidecar() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sidecars/demo"))
}
