//! A containerd that tells of changes, for the test of a whole node: Debian's own has `GetContainerEvents` from 1.7 on, which
//! is in trixie. It lies in the cache, beside the machine's.

use std::fs;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::suite::Suite;

const SUITE: &str = "trixie";

/// Whether it is in the cache.
pub(crate) fn is_there() -> bool {
    lab::cached_containerd().exists()
}

/// Puts it there.
pub(crate) fn install(bar: &ProgressBar) -> Result<String> {
    let target = lab::cached_containerd();
    // DIR/root/usr/bin/containerd
    let dir = target.ancestors().nth(4).context("a directory of its own")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Suite::open(bar, dir, SUITE)?.unpack(bar, &["containerd".to_owned()])?;
    Ok(format!("containerd of {SUITE}, in {}", dir.display()))
}
