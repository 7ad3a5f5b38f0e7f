//! `cargo xtask check`: format, lints, and dependencies where cargo-deny is there to look at them.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::requirement::Purpose;
use crate::setup;

/// Runs them in order and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    setup::run(Purpose::Build, false)?;
    let deny = cargo::here().args(["deny", "--version"]).output().is_ok_and(|output| output.status.success());
    passes(cargo::here().args(["fmt", "--all", "--check"]), "run `cargo fmt --all`")?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    passes(cargo::here().args(clippy), "its lints are above")?;
    if deny {
        passes(cargo::here().args(["deny", "check"]), "its findings are above")?;
    } else {
        eprintln!("cargo-deny is not installed: licences and advisories were not checked.");
    }
    Ok(())
}

/// Runs a command with our own output; `hint` follows its failure.
pub(crate) fn passes(command: &mut Command, hint: &str) -> Result<()> {
    let arguments: Vec<_> =
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let name = format!("cargo {}", arguments.join(" "));
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {hint}");
    Ok(())
}
