//! The cgroup v2 tree: which cgroups belong to containers, and the path of a cgroup. Processes are found through `/proc`, as
//! nodes with cgroup v1 have no v2 cgroups for containers. It reads only names and inode numbers of the tree.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use tracer_core::pod::{OwnerKey, container_ids, paths};

/// The tree below a mount of cgroup v2.
#[derive(Clone)]
pub(super) struct CgroupTree {
    root: PathBuf,
}

/// The depth of the walk. A container of a node in a container of a node is at twelve.
const DEPTH: usize = 16;
/// The most cgroups of a walk. A node has some hundreds.
const MAX_CGROUPS: usize = 100_000;

/// A container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerCgroup {
    /// The v2 id.
    pub(super) cgroup: u64,
    /// Name and id of the parent, which may be the pod's cgroup.
    pub(super) parent: (String, u64),
}

impl CgroupTree {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cgroups of containers, by the container's id. Cgroups that a container made below its own are left out.
    pub(super) fn containers(&self) -> HashMap<String, ContainerCgroup> {
        let mut found = HashMap::new();
        self.walk(|path, cgroup, parent| {
            let name = path.rsplit('/').next().unwrap_or_default();
            if let Some(id) = container_ids(name).next() {
                found
                    .entry(id.to_owned())
                    .or_insert_with(|| ContainerCgroup { cgroup, parent: parent.clone() });
            }
            true
        });
        found
    }

    /// The directories of containers' cgroups, by the container's id.
    pub(super) fn directories(&self) -> HashMap<String, PathBuf> {
        let mut found = HashMap::new();
        self.walk(|path, _, _| {
            if let Some(id) = container_ids(path.rsplit('/').next().unwrap_or_default()).next() {
                found.entry(id.to_owned()).or_insert_with(|| self.root.join(path.trim_start_matches('/')));
            }
            true
        });
        found
    }

    /// The cgroup paths of these keys, without keys that no longer exist or are not visible.
    pub(super) fn paths(&self, keys: &BTreeSet<OwnerKey>) -> HashMap<OwnerKey, String> {
        let processes = keys.iter().filter_map(|&key| match key {
            OwnerKey::Process(pid) => Some((key, path_of(pid)?)),
            OwnerKey::Cgroup(_) => None,
        });
        let mut found_paths: HashMap<OwnerKey, String> = processes.collect();
        if keys.iter().any(|key| matches!(key, OwnerKey::Cgroup(_))) {
            self.walk(|path, cgroup, _| {
                if keys.contains(&OwnerKey::Cgroup(cgroup)) {
                    found_paths.insert(OwnerKey::Cgroup(cgroup), path.to_owned());
                }
                found_paths.len() < keys.len()
            });
        }
        found_paths
    }

    /// Visits all directories, parents first, until `visit` returns `false`. Its arguments are the path below the mount, the
    /// cgroup's id, and name and id of its parent.
    fn walk(&self, mut visit: impl FnMut(&str, u64, &(String, u64)) -> bool) {
        let Ok(root) = fs::metadata(&self.root) else { return };
        let mut open = vec![(self.root.clone(), (String::new(), root.ino()), 0)];
        let mut seen = 0;
        while let Some((dir, this, depth)) = open.pop() {
            for (path, name, ino) in directories(&dir) {
                seen += 1;
                let below = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                if seen > MAX_CGROUPS || !visit(&format!("/{below}"), ino, &this) {
                    return;
                }
                if depth + 1 < DEPTH {
                    open.push((path, (name, ino), depth + 1));
                }
            }
        }
    }
}

/// The path of a process in the hierarchy that names its container, or else in the first one.
fn path_of(pid: u32) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut in_container = paths(&table).filter(|path| container_ids(path).next().is_some());
    in_container.next().or_else(|| paths(&table).next()).map(str::to_owned)
}

/// Path, name and inode number of the directories in `dir`; none where it was removed meanwhile.
fn directories(dir: &Path) -> impl Iterator<Item = (PathBuf, String, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned(), entry.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

    #[test]
    fn containers_are_found_by_their_id_with_the_cgroup_of_their_pod() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("kubepods/burstable/podu").join(ID);
        fs::create_dir_all(dir.join("init.scope")).expect("directories");
        fs::create_dir_all(root.path().join("system.slice/sshd.service")).expect("directories");
        let ino = |path: &Path| fs::metadata(path).expect("metadata").ino();
        let tree = CgroupTree::new(root.path().to_owned());
        let parent = ("podu".to_owned(), ino(dir.parent().expect("a parent")));
        let wanted = HashMap::from([(ID.to_owned(), ContainerCgroup { cgroup: ino(&dir), parent })]);
        assert_eq!(tree.containers(), wanted);
        let inner = OwnerKey::Cgroup(ino(&dir.join("init.scope")));
        let this = OwnerKey::Process(std::process::id());
        let found_paths = tree.paths(&BTreeSet::from([
            inner,
            this,
            OwnerKey::Cgroup(u64::MAX),
            OwnerKey::Process(u32::MAX),
        ]));
        assert_eq!(found_paths.get(&inner), Some(&format!("/kubepods/burstable/podu/{ID}/init.scope")));
        assert!(found_paths.contains_key(&this) && found_paths.len() == 2, "{found_paths:?}");
        assert!(CgroupTree::new(PathBuf::from("/nonexistent")).containers().is_empty());
    }
}
