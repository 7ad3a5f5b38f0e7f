//! `cargo xtask check`: format, lints, prose, dependencies and documentation.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::cargo_deny;
use crate::progress;
use crate::prose;
use crate::requirement::Purpose;
use crate::setup;

/// What rustdoc must not accept: warnings, and links that lead nowhere.
const RUSTDOCFLAGS: &str = "-D warnings -D rustdoc::broken_intra_doc_links";

/// Runs the checks in order, the quickest first, and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    setup::run(Purpose::Check, false)?;
    passes(cargo::here().args(["fmt", "--all", "--check"]), "run `cargo fmt --all`")?;
    prose::check()?;
    passes(
        cargo_deny::command().args(["check", "bans", "licenses", "sources"]),
        "its findings are above; deny.toml holds the rules",
    )?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    passes(cargo::here().args(clippy), "its lints are above")?;
    // After clippy: both read the same metadata of dependencies.
    let doc = ["doc", "--workspace", "--no-deps"];
    passes(cargo::here().args(doc).env("RUSTDOCFLAGS", RUSTDOCFLAGS), "its warnings are above")
}

/// Runs a command with our own output; `hint` follows its failure.
pub(crate) fn passes(command: &mut Command, hint: &str) -> Result<()> {
    let arguments: Vec<_> =
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{program} {}", arguments.join(" "));
    let start = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    progress::record(&name, start.elapsed());
    ensure!(status.success(), "{name} failed: {hint}");
    Ok(())
}
