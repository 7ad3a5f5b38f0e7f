//! Who a process belongs to: a container of a pod, or the host. These are the facts that the container runtime has, in
//! the core's own terms; where they come from is not known here.

mod cgroup_path;
mod owner_cache;
mod workload;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use cgroup_path::{container_ids, is_of_pod, paths};
pub use owner_cache::Names;
pub use workload::workload;

use crate::{event::Task, selector::Labels};

/// The annotation with which a pod's owner keeps it from being traced.
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
    /// What it is a copy of.
    pub workload: String,
    /// A sidecar was injected into it.
    pub injected: bool,
    /// It shares the node's network.
    pub host_network: bool,
    /// Its owner does not want it traced.
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

/// Who a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A container of a pod.
    Container(Container),
    /// The node itself.
    Host,
    /// It lies in a container, but the runtime knows nothing of it; or nothing could be found out.
    Unknown,
}

/// By what a process's owner is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Its cgroup (v2 id): never given to another.
    Cgroup(u64),
    /// Its process id, where all processes are in the hierarchy's root: the containers have v1 cgroups then.
    Process(u32),
}

/// The id of the root of the v2 hierarchy: its inode number.
/// <https://elixir.bootlin.com/linux/v6.12/source/fs/kernfs/mount.c#L256>
const ROOT: u64 = 1;

impl Key {
    /// Of a socket made in `cgroup`, and of the task that made it, where that was seen; `None`: neither is known.
    pub fn of(task: Option<&Task>, cgroup: u64) -> Option<Self> {
        match (task, cgroup) {
            (None, 0 | ROOT) => None,
            (None, cgroup) => Some(Self::Cgroup(cgroup)),
            (Some(Task { cgroup: 0 | ROOT, pid, .. }), _) => Some(Self::Process(*pid)),
            (Some(Task { cgroup, .. }), _) => Some(Self::Cgroup(*cgroup)),
        }
    }
}

/// What becomes known of owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Who processes of this key belong to.
    Owner(Key, Owner),
    /// There are none left.
    Gone(Key),
}

/// `Arc` of what is written by value.
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
