//! Fetches Debian's kernels for the guests into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::debian_suite::DebianSuite;
use crate::toolchain::cache;

/// Name, Debian suite, and the probe families that it supports.
pub(crate) const KERNELS: &[(&str, &str, &[&str])] = &[
    ("5.10", "bullseye", &["fentry", "kprobe"]),
    ("6.1", "bookworm", &["fentry", "kprobe", "cgroup"]),
    ("6.12", "trixie", &["fentry", "kprobe", "cgroup"]),
    ("7", "sid", &["fentry", "kprobe", "cgroup"]),
];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Its name in [`KERNELS`].
    pub(crate) name: &'static str,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Its modules.
    pub(crate) modules: PathBuf,
}

/// Returns a kernel from the cache; fetches it first where it is missing.
pub(crate) fn get(bar: &ProgressBar, name: &'static str, suite: &str) -> Result<Kernel> {
    let dir = cache().join("kernels").join(suite);
    let root = dir.join("root");
    if !root.exists() {
        fetch(bar, &dir, suite)?;
    }
    let modules = ["lib/modules", "usr/lib/modules"].map(|below| root.join(below));
    let modules =
        modules.iter().find_map(|dir| fs::read_dir(dir).ok()?.next()?.ok()).map(|entry| entry.path());
    let modules = modules.with_context(|| format!("{} holds no modules: remove it", dir.display()))?;
    let release = modules.file_name().context("a release")?.to_string_lossy().into_owned();
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.exists());
    Ok(Kernel { name, image: image.with_context(|| format!("{} holds no image", dir.display()))?, modules })
}

fn fetch(bar: &ProgressBar, dir: &Path, suite: &str) -> Result<()> {
    let suite = DebianSuite::open(bar, dir, suite)?;
    // The suite's newest kernel. sid splits image and modules into two packages.
    let is_part = |name: &String| {
        ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|begin| name.starts_with(begin))
    };
    let depends = |package: &str| -> Result<Vec<String>> {
        Ok(suite.depends(bar, package)?.into_iter().filter(is_part).collect())
    };
    let mut packages = depends("linux-image-cloud-amd64")?;
    let image = packages.first().cloned().context("the suite has no linux-image-cloud-amd64")?;
    packages.extend(depends(&image)?);
    suite.unpack(bar, &packages)
}
