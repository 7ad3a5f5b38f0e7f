//! The owner of a process: a container of a pod, or the host. Facts come from the container runtime, through the caller.

mod cgroup_path;
mod owner_cache;
mod workload;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use cgroup_path::{container_ids, is_pod_cgroup, paths};
pub use owner_cache::OwnerCache;
pub use workload::workload;

use crate::{event::Task, selector::Labels};

/// The annotation that keeps a pod's sessions out of the reports.
pub const IGNORE: &str = "egress-tracer.io/ignore";

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Unique over time, unlike the name.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The workload that it is a replica of; see [`workload()`].
    pub workload: String,
    /// A sidecar was injected into it.
    pub injected: bool,
    /// It shares the node's network namespace.
    pub host_network: bool,
    /// It has the [`IGNORE`] annotation: its sessions are not reported.
    pub ignored: bool,
}

/// A container of a pod. Containers of one pod share its facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name within the pod.
    pub name: String,
    /// The pod.
    #[serde(with = "shared")]
    pub pod: Arc<Pod>,
}

/// The owner of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A container of a pod.
    Container(Container),
    /// The node itself.
    Host,
    /// A container that the runtime does not know, or a process that was gone before it was looked up.
    Unknown,
}

/// The key by which a process's owner is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKey {
    /// The cgroup (v2 id), which is never reused.
    Cgroup(u64),
    /// The process id, if the process is in the root of the v2 hierarchy. Containers have v1 cgroups then.
    Process(u32),
}

/// The id of the v2 hierarchy's root, which is its inode number.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/kernfs/mount.c#L256>
const ROOT: u64 = 1;

impl OwnerKey {
    /// The key of a socket from the task that made it, if that was seen, else from the socket's cgroup. `None`: neither
    /// is known.
    pub fn of(task: Option<&Task>, cgroup: u64) -> Option<Self> {
        match (task, cgroup) {
            (None, 0 | ROOT) => None,
            (None, cgroup) => Some(Self::Cgroup(cgroup)),
            (Some(Task { cgroup: 0 | ROOT, pid, .. }), _) => Some(Self::Process(*pid)),
            (Some(Task { cgroup, .. }), _) => Some(Self::Cgroup(*cgroup)),
        }
    }
}

/// What the container runtime says about an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The owner of processes with this key.
    Owner(OwnerKey, Owner),
    /// No process with this key is left.
    Gone(OwnerKey),
}

/// Serializes an `Arc<Pod>` as its pod.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Pod;

    pub(super) fn serialize<S: Serializer>(pod: &Arc<Pod>, to: S) -> Result<S::Ok, S::Error> {
        pod.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Pod>, D::Error> {
        Pod::deserialize(from).map(Arc::new)
    }
}
