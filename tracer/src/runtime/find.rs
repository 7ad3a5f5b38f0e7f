//! Finds a process of a pod by the pod's name, and the names of containers, with one list from the runtime.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::{
    RuntimeEndpoint,
    cgroups::CgroupTree,
    client::{Client, List},
};
use tracer_core::mesh_profile::MeshProfile;

/// How long the runtime may take while a person waits. It lists a full node in less than a tenth of that.
const PATIENCE: Duration = Duration::from_secs(2);

/// The id of a process in the pod `NAMESPACE/NAME` of this node, of its sidecar where it has one. `cgroups` is the mount point
/// of cgroup v2.
pub async fn process_of(endpoint: &RuntimeEndpoint, cgroups: &Path, pod: &str) -> anyhow::Result<u32> {
    // A process of the sidecar lives as long as the sidecar.
    find(endpoint, cgroups, pod, |container| !MeshProfile::is_proxy_container(container)).await
}

/// The id of a process of the app in the pod `NAMESPACE/NAME` of this node. `cgroups` is the mount point of cgroup v2.
pub async fn app_process_of(endpoint: &RuntimeEndpoint, cgroups: &Path, pod: &str) -> anyhow::Result<u32> {
    find(endpoint, cgroups, pod, MeshProfile::is_proxy_container).await
}

/// A process of the first container in the order of `rank`.
async fn find(
    endpoint: &RuntimeEndpoint,
    cgroups: &Path,
    pod: &str,
    rank: impl Fn(&str) -> bool,
) -> anyhow::Result<u32> {
    let Some((namespace, name)) = pod.split_once('/') else {
        bail!("--pod wants NAMESPACE/NAME");
    };
    let list = list(endpoint).await?;
    let mut pods = list.sandboxes.iter().filter(|pod| pod.namespace == namespace && pod.name == name);
    let sandbox = pods.next().with_context(|| {
        format!("no pod {namespace}/{name} runs on this node; ask on the node that it runs on")
    })?;
    let mut containers: Vec<_> = list.containers.iter().filter(|one| one.sandbox == sandbox.id).collect();
    containers.sort_by_key(|container| rank(&container.name));
    let tree = CgroupTree::new(cgroups.to_owned());
    let dirs = tree.directories();
    let pid = containers.iter().filter_map(|container| dirs.get(&container.id)).find_map(|dir| {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
        pids.lines().find_map(|line| line.parse().ok().filter(|pid| *pid != 0))
    });
    pid.with_context(|| {
        format!(
            "no process of pod {namespace}/{name} was found below {}; in a container, this needs hostPID",
            cgroups.display()
        )
    })
}

/// Which container of which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container runs a mesh's proxy.
    pub is_proxy: bool,
}

/// The containers of this node, by their id.
pub async fn container_names(endpoint: &RuntimeEndpoint) -> anyhow::Result<HashMap<String, ContainerName>> {
    let list = list(endpoint).await?;
    let name = |sandbox: &str| list.sandboxes.iter().find(|pod| pod.id == sandbox);
    let containers = list.containers.iter().filter_map(|container| {
        let pod = name(&container.sandbox)?;
        let name = ContainerName {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            is_proxy: MeshProfile::is_proxy_container(&container.name),
        };
        Some((container.id.clone(), name))
    });
    Ok(containers.collect())
}

async fn list(endpoint: &RuntimeEndpoint) -> anyhow::Result<List> {
    let asked = async { Client::connect(endpoint).await?.list(|_| true).await };
    let list = timeout(PATIENCE, asked).await;
    let list = list.unwrap_or_else(|_| bail!("it does not answer within {} s", PATIENCE.as_secs()));
    list.with_context(|| format!("cannot ask the container runtime at {endpoint} for pods"))
}
