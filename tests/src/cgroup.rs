//! A cgroup (v2) of the lab. The hierarchy is found through the mount table, because hybrid machines do not mount it at
//! `/sys/fs/cgroup`. The janitor removes the lab's cgroups.

use std::fs;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A directory of the cgroup v2 hierarchy.
#[derive(Debug, Clone)]
pub struct TestCgroup(PathBuf);

impl TestCgroup {
    /// The root of the v2 hierarchy.
    pub fn top() -> Result<Self> {
        let mount = mount_point(&fs::read_to_string("/proc/self/mountinfo")?).context(
            "no cgroup v2 hierarchy in the mount table: mount one (`mount -t cgroup2 none DIR`) and run again",
        )?;
        Ok(Self(mount))
    }

    /// Makes the child cgroup `name`.
    pub fn child(&self, name: &str) -> Result<Self> {
        let dir = self.0.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The directory, as `egress-tracer --cgroup` takes it.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Opens `cgroup.procs`: a process that writes `0` to it moves into the cgroup.
    pub(crate) fn procs(&self) -> Result<File> {
        let path = self.0.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

/// The first cgroup2 mount point in a mountinfo (proc(5)). The fields after ` - ` begin with the file system type.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_mount_point_is_found_in_mountinfo() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        assert_eq!(mount_point(hybrid).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"), None);
    }
}
