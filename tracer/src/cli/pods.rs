//! The arguments about pods: the container runtime's socket, and which pods an agent traces.

use std::{path::PathBuf, time::Duration};

use crate::{
    explain,
    runtime::{self, RuntimeEndpoint},
};
use tracer_core::selector::{Namespace, PodChoice, Selector};

/// Which container runtime knows the pods.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct RuntimeArgs {
    /// The container runtime's socket, which knows pods by name, such as
    /// /run/containerd/containerd.sock
    /// [default: found]
    #[arg(long, value_name = "SOCKET", env = "CONTAINER_RUNTIME_ENDPOINT")]
    runtime_endpoint: Option<RuntimeEndpoint>,
}

/// Where pods' names come from.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// How long the name and the metric series of a pod are kept after the pod ended
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::duration)]
    pub(super) remember_pods: Duration,
}

impl RuntimeArgs {
    /// The endpoint that was given, else the one found.
    pub(super) fn endpoint(&self) -> Option<RuntimeEndpoint> {
        self.runtime_endpoint.clone().or_else(RuntimeEndpoint::find)
    }
}

impl Args {
    /// The endpoint that was given, else the one found.
    pub(super) fn endpoint(&self) -> Option<RuntimeEndpoint> {
        self.runtime.endpoint()
    }
}

/// Which pods an agent traces.
#[derive(clap::Args, Debug, Default)]
#[group(skip)]
pub(super) struct ChoiceArgs {
    /// Only pods of this namespace, or with `!` before it all others; may be repeated. No bytes of other pods are copied
    #[arg(short, long, value_name = "[!]NAMESPACE")]
    namespace: Vec<Namespace>,
    /// Only pods with these labels: app=cart, tier!=db, env in (a,b), !legacy; may be repeated
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Vec<Selector>,
}

impl ChoiceArgs {
    /// The conditions in words, one string each.
    pub(super) fn summary(&self) -> Vec<String> {
        let listed = self.namespace.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let namespaces = (!listed.is_empty()).then(|| format!("namespaces {listed}"));
        namespaces
            .into_iter()
            .chain(self.selector.iter().map(|selector| format!("labels {selector}")))
            .collect()
    }

    pub(super) fn choice(&self) -> PodChoice {
        PodChoice { namespaces: self.namespace.clone(), selectors: self.selector.clone() }
    }
}

/// Replaces a pod by the id of a process in it, where a runtime is there to tell. `cgroup2_root` finds where cgroup v2 is
/// mounted.
pub(super) fn resolve(
    args: explain::Args,
    cgroup2_root: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<explain::Args> {
    let (Some(pod), Some(endpoint)) =
        (args.pod_to_find(), args.runtime_endpoint.clone().or_else(RuntimeEndpoint::find))
    else {
        return Ok(args);
    };
    let pid = super::block_on(runtime::process_of(&endpoint, &cgroup2_root()?, &pod))?;
    Ok(args.with_pid(pid))
}
