//! Cargo, called from within cargo.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::Value;

use crate::progress;

/// The cargo that runs us, for this workspace.
pub(crate) fn here() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The same for something that is not of this workspace: nothing of what steers our own build reaches it.
pub(crate) fn nested() -> Command {
    let mut command = here();
    command.current_dir("/");
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(name);
    }
    command
}

/// Builds egress-tracer and says where it is; `$EGRESS_TRACER_BIN` is taken as it is instead.
pub(crate) fn build_tracer(release: bool) -> Result<PathBuf> {
    if let Some(given) = env::var_os("EGRESS_TRACER_BIN") {
        return Ok(PathBuf::from(given));
    }
    let mut command = here();
    command.args(["build", "--package", "tracer", "--bin", "egress-tracer"]);
    if release {
        command.arg("--release");
    }
    let said = progress::step("Building egress-tracer", |bar| build(bar, &mut command))?;
    executable(&said, "egress-tracer")
}

/// Runs a `cargo build` and gives back what it said, of which [`executable`] reads.
pub(crate) fn build(bar: &ProgressBar, command: &mut Command) -> Result<String> {
    progress::command(bar, command.arg("--message-format=json-render-diagnostics"))
}

/// Where a build says that it put this program.
pub(crate) fn executable(said: &str, name: &str) -> Result<PathBuf> {
    said.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built {name} but did not say where"))
}

/// Builds what runs in a guest: its init, and the client that the lab looks for beside it.
pub(crate) fn build_guest() -> Result<(PathBuf, PathBuf)> {
    let mut command = here();
    command.args(["build", "--package", "tests", "--bin", "guest", "--bin", "raw-client"]);
    let said = progress::step("Building the kernel tests", |bar| build(bar, &mut command))?;
    Ok((executable(&said, "guest")?, executable(&said, "raw-client")?))
}

/// The compiler of the cargo that runs us.
pub(crate) fn rustc() -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(workspace());
    command
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(dir));
    }
    Ok(fs::canonicalize(workspace())?.join("target"))
}

/// Builds the benchmark's load generator where [`lab::load`] looks for it: optimised, or it would be what is measured.
pub(crate) fn build_load() -> Result<PathBuf> {
    let mut command = here();
    command.args(["build", "--release", "--package", "tests", "--bin", "load"]);
    let said = progress::step("Building the load generator", |bar| build(bar, &mut command))?;
    executable(&said, "load")
}

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
