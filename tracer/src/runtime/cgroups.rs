//! The cgroup v2 tree, and `/proc` where there is none for containers: which cgroups are containers', and where one
//! lies. It reads names and inode numbers; it opens no cgroup's files.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use tracer_core::pod::{Key, container_ids, paths};

/// The tree below a mount of cgroup v2.
#[derive(Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

/// How deep containers may lie: a node in a container in a node is at twelve.
const DEPTH: usize = 16;
/// How many cgroups are looked at. A node has some hundreds.
const MOST: usize = 100_000;

/// A container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its v2 id.
    pub(super) cgroup: u64,
    /// Name and id of the one above, which may be the pod's.
    pub(super) parent: (String, u64),
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The cgroups of containers, by the container's id; those that a container made for itself count as others.
    pub(super) fn containers(&self) -> HashMap<String, Found> {
        let mut found = HashMap::new();
        self.walk(|path, cgroup, parent| {
            let name = path.rsplit('/').next().unwrap_or_default();
            if let Some(id) = container_ids(name).next() {
                found.entry(id.to_owned()).or_insert_with(|| Found { cgroup, parent: parent.clone() });
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

    /// Where the processes of these keys lie; nothing for those that are gone, or cannot be seen.
    pub(super) fn places(&self, keys: &BTreeSet<Key>) -> HashMap<Key, String> {
        let processes = keys.iter().filter_map(|&key| match key {
            Key::Process(pid) => Some((key, path_of(pid)?)),
            Key::Cgroup(_) => None,
        });
        let mut places: HashMap<Key, String> = processes.collect();
        if keys.iter().any(|key| matches!(key, Key::Cgroup(_))) {
            self.walk(|path, cgroup, _| {
                if keys.contains(&Key::Cgroup(cgroup)) {
                    places.insert(Key::Cgroup(cgroup), path.to_owned());
                }
                places.len() < keys.len()
            });
        }
        places
    }

    /// Goes through all directories, parents first, until it is told to stop.
    fn walk(&self, mut visit: impl FnMut(&str, u64, &(String, u64)) -> bool) {
        let Ok(root) = fs::metadata(&self.root) else { return };
        let mut open = vec![(self.root.clone(), (String::new(), root.ino()), 0)];
        let mut seen = 0;
        while let Some((dir, this, depth)) = open.pop() {
            for (path, name, ino) in directories(&dir) {
                seen += 1;
                let below = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                if seen > MOST || !visit(&format!("/{below}"), ino, &this) {
                    return;
                }
                if depth + 1 < DEPTH {
                    open.push((path, (name, ino), depth + 1));
                }
            }
        }
    }
}

/// Of the hierarchies that a process is in, the one that says which container it is in.
fn path_of(pid: u32) -> Option<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut lies_in_one = paths(&table).filter(|path| container_ids(path).next().is_some());
    lies_in_one.next().or_else(|| paths(&table).next()).map(str::to_owned)
}

/// A cgroup may vanish while it is looked at: then it has none.
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
    fn containers_are_found_by_their_id_with_the_pod_above_them() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("kubepods/burstable/podu").join(ID);
        fs::create_dir_all(dir.join("init.scope")).expect("directories");
        fs::create_dir_all(root.path().join("system.slice/sshd.service")).expect("directories");
        let ino = |path: &Path| fs::metadata(path).expect("metadata").ino();
        let tree = Tree::new(root.path().to_owned());
        let parent = ("podu".to_owned(), ino(dir.parent().expect("a parent")));
        let wanted = HashMap::from([(ID.to_owned(), Found { cgroup: ino(&dir), parent })]);
        assert_eq!(tree.containers(), wanted);
        let inner = Key::Cgroup(ino(&dir.join("init.scope")));
        let this = Key::Process(std::process::id());
        let places =
            tree.places(&BTreeSet::from([inner, this, Key::Cgroup(u64::MAX), Key::Process(u32::MAX)]));
        assert_eq!(places.get(&inner), Some(&format!("/kubepods/burstable/podu/{ID}/init.scope")));
        assert!(places.contains_key(&this) && places.len() == 2, "{places:?}");
        assert!(Tree::new(PathBuf::from("/nonexistent")).containers().is_empty());
    }
}
