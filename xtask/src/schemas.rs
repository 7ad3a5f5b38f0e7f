//! JSON Schemas of Kubernetes' objects, which the manifests are checked against: from a pinned wheel, kept in the cache.

use std::fs;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::wheel;

/// The wheel has the schemas of each minor version up to its own.
const REQUIREMENT: &str = "kubernetes-validate==1.37.0";
const HASH: &str = "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9";

/// Whether they are in the cache.
pub(crate) fn are_there() -> bool {
    lab::cached_schemas().exists()
}

/// Fetches them into the cache.
pub(crate) fn install(bar: &ProgressBar) -> Result<String> {
    let target = lab::cached_schemas();
    let dir = target.parent().context("a file in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let work = tempfile::tempdir_in(dir)?;
    let wheel = wheel::fetch(bar, REQUIREMENT, HASH, work.path())?;
    fs::rename(wheel, &target)?; // atomic: the cache never holds half a file
    Ok(format!("{REQUIREMENT}, in {}", target.display()))
}
