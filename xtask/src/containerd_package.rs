//! A containerd with `GetContainerEvents` (1.7 and newer), for the test of a whole node. It comes from Debian trixie and is
//! unpacked into the cache; the machine's own stays as it is.

use std::fs;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::debian_suite::DebianSuite;

const SUITE: &str = "trixie";

/// Whether it is in the cache.
pub(crate) fn is_there() -> bool {
    lab::cached_containerd().exists()
}

/// Unpacks it into the cache.
pub(crate) fn install(bar: &ProgressBar) -> Result<String> {
    let target = lab::cached_containerd();
    // DIR/root/usr/bin/containerd
    let dir = target.ancestors().nth(4).context("a directory of its own")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    DebianSuite::open(bar, dir, SUITE)?.unpack(bar, &["containerd".to_owned()])?;
    Ok(format!("containerd of {SUITE}, in {}", dir.display()))
}
