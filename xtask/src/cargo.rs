//! Calls of cargo from within cargo.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::Value;

use crate::progress;

/// The cargo that runs this program, in this workspace.
pub(crate) fn here() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Cargo for something outside this workspace: it gets none of the variables that configure our own build.
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

/// `cargo install` of a pinned tool into `root`. Unoptimized: building such a tool takes
/// longer than all its runs.
pub(crate) fn install_tool(name: &str, version: &str, root: &Path) -> Command {
    let mut install = nested();
    install.args(["install", name, "--version", version, "--locked", "--force", "--root"]).arg(root);
    install.args(["--profile", "dev", "--config", "profile.dev.debug=false"]);
    install
}

/// Builds egress-tracer with the release profile or the tests' profile, and returns its path. Where `$EGRESS_TRACER_BIN` is
/// set, returns that instead.
pub(crate) fn build_tracer(release: bool) -> Result<PathBuf> {
    if let Some(given) = env::var_os("EGRESS_TRACER_BIN") {
        return Ok(PathBuf::from(given));
    }
    let mut command = here();
    if release {
        command.args(["build", "--release", "--package", "tracer"]);
    } else {
        command.args(WORKSPACE_BUILD);
    }
    command.args(["--bin", "egress-tracer"]);
    let said = progress::step("Building egress-tracer", |bar| build(bar, &mut command))?;
    executable(&said, "egress-tracer")
}

/// Builds with the union of the features that the workspace's crates ask for. A build of one package has fewer, and shares
/// nothing with the tests. <https://doc.rust-lang.org/cargo/reference/features.html#feature-unification>
const WORKSPACE_BUILD: [&str; 2] = ["build", "--workspace"];

/// Programs that the tests run.
#[derive(Debug)]
pub(crate) struct TestPrograms {
    /// The program under test.
    pub(crate) tracer: PathBuf,
    /// What runs in a guest.
    pub(crate) guest: GuestPrograms,
}

/// Programs that run in a guest.
#[derive(Debug)]
pub(crate) struct GuestPrograms {
    /// Its init, which runs the tests.
    pub(crate) init: PathBuf,
    /// The client that the lab looks for beside it.
    pub(crate) client: PathBuf,
}

/// Builds every test and the programs that the tests run, with one call of cargo.
pub(crate) fn build_tests() -> Result<TestPrograms> {
    let mut command = here();
    command.args(["test", "--workspace", "--no-run", "--lib", "--bins", "--tests"]);
    let said = progress::step("Building egress-tracer and its tests", |bar| build(bar, &mut command))?;
    let given = env::var_os("EGRESS_TRACER_BIN").map(PathBuf::from);
    let tracer = given.map_or_else(|| executable(&said, "egress-tracer"), Ok)?;
    Ok(TestPrograms { tracer, guest: guest_programs(&said)? })
}

/// Runs a `cargo build`, and returns its messages for [`executable`].
pub(crate) fn build(bar: &ProgressBar, command: &mut Command) -> Result<String> {
    progress::command(bar, command.arg("--message-format=json-render-diagnostics"))
}

/// The path of a program (not of its unit tests) in the messages of a build.
pub(crate) fn executable(said: &str, name: &str) -> Result<PathBuf> {
    said.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && message["profile"]["test"] == false)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built {name} but did not say where"))
}

/// Builds what runs in a guest.
pub(crate) fn build_guest() -> Result<GuestPrograms> {
    let mut command = here();
    command.args(WORKSPACE_BUILD).args(["--bin", "guest", "--bin", "raw-client"]);
    let said = progress::step("Building the kernel tests", |bar| build(bar, &mut command))?;
    guest_programs(&said)
}

fn guest_programs(said: &str) -> Result<GuestPrograms> {
    Ok(GuestPrograms { init: executable(said, "guest")?, client: executable(said, "raw-client")? })
}

/// The compiler that belongs to this cargo.
pub(crate) fn rustc() -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(workspace());
    command
}

/// The target directory.
pub(crate) fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(PathBuf::from(dir));
    }
    Ok(fs::canonicalize(workspace())?.join("target"))
}

/// Builds the benchmark's load generator where [`lab::load`] looks for it. Optimized: otherwise the
/// benchmark would measure the generator.
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
