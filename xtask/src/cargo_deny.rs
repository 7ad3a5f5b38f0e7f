//! cargo-deny, which holds the rules of `deny.toml`: a pinned version, built into the cache and never into the checkout.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;

use crate::cargo;
use crate::install::Job;
use crate::progress;
use crate::toolchain::cache;

const VERSION: &str = "0.20.2";

/// Whether this version is in the cache.
pub(crate) fn is_there() -> bool {
    program().exists()
}

/// Builds it into the cache.
#[expect(clippy::unnecessary_wraps, reason = "an entry of the table of requirements")]
pub(crate) fn prepare(_: &ProgressBar) -> Result<Job> {
    Ok(Box::new(|bar| {
        progress::command(bar, &mut cargo::install_tool("cargo-deny", VERSION, &root()))?;
        ensure!(is_there(), "cargo install wrote no {}", program().display());
        Ok(format!("cargo-deny {VERSION}, in {}", root().display()))
    }))
}

/// `cargo deny` for this workspace.
pub(crate) fn command() -> Command {
    let mut command = Command::new(program());
    command.current_dir(cargo::workspace());
    command
}

fn root() -> PathBuf {
    cache().join("cargo-deny").join(VERSION)
}

fn program() -> PathBuf {
    root().join("bin/cargo-deny")
}
