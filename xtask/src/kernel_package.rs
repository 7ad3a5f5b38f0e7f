//! Fetches Debian's kernels for the guests. What was fetched once stays in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::suite::Suite;
use crate::toolchain::cache;

/// A name for it, the suite that has it, and the families of probes that it takes.
pub(crate) const KERNELS: &[(&str, &str, &[&str])] = &[
    ("5.10", "bullseye", &["fentry", "kprobe"]),
    ("6.1", "bookworm", &["fentry", "kprobe", "cgroup"]),
    ("6.12", "trixie", &["fentry", "kprobe", "cgroup"]),
    ("7", "sid", &["fentry", "kprobe", "cgroup"]),
];

/// A kernel that was unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What it is asked for by.
    pub(crate) name: &'static str,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Its modules.
    pub(crate) modules: PathBuf,
}

/// Gets a kernel from the cache, or from the mirror.
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
    let suite = Suite::open(bar, dir, suite)?;
    // The newest kernel of the suite, and what it is made of: sid has its image and modules in packages of their own.
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
