//! Finds a process of a pod by the pod's name, with one list from the runtime.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::{Endpoint, LIST_TIMEOUT, cgroups::CgroupTree, client::Client};
use tracer_core::mesh_profile::MeshProfile;

/// The id of a process in the pod `NAMESPACE/NAME` of this node, of its sidecar where it has one. `cgroups` is the mount point
/// of cgroup v2.
pub async fn process_of(endpoint: &Endpoint, cgroups: &Path, pod: &str) -> anyhow::Result<u32> {
    let Some((namespace, name)) = pod.split_once('/') else {
        bail!("--pod wants NAMESPACE/NAME");
    };
    let asked = async { Client::connect(endpoint).await?.list(|_| true).await };
    let list = timeout(LIST_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| bail!("it did not answer within {LIST_TIMEOUT:?}"));
    let list = list.with_context(|| format!("cannot ask the container runtime at {endpoint} for pods"))?;
    let mut pods = list.sandboxes.iter().filter(|pod| pod.namespace == namespace && pod.name == name);
    let sandbox = pods.next().with_context(|| {
        format!("no pod {namespace}/{name} runs on this node; ask on the node that it runs on")
    })?;
    let mut containers: Vec<_> = list.containers.iter().filter(|one| one.sandbox == sandbox.id).collect();
    // A process of the sidecar lives as long as the sidecar.
    containers.sort_by_key(|container| !MeshProfile::is_proxy_container(&container.name));
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
