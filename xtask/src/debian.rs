//! Debian packages: finds the version that the machine's mirrors have, and installs it. Never adds a source.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;

use crate::install::{is_on_path, is_root};
use crate::progress;

/// Whether this machine has apt.
pub(crate) fn is_here() -> bool {
    is_on_path("apt-get")
}

/// Installs packages without recommended ones, and without starting their services.
pub(crate) fn install(bar: &ProgressBar, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(is_here(), "this is no Debian: install by hand what these packages hold: {list}");
    ensure!(is_root(), "installing {list} needs root: run it again with sudo, or install them yourself");
    let _quiet = NoServices::begin()?;
    if let Err(error) = apt_install(bar, packages) {
        // Usually the package lists are missing or old.
        bar.suspend(|| eprintln!("{error:#}; once more with fresh package lists"));
        update(bar)?;
        apt_install(bar, packages)?;
    }
    Ok(())
}

/// Fetches the package lists.
pub(crate) fn update(bar: &ProgressBar) -> Result<()> {
    ensure!(is_root(), "fetching the package lists needs root: run it again with sudo");
    progress::command(bar, apt_get().arg("update")).map(drop)
}

/// The version of a package that apt would install, such as `1.96.0+dfsg1-1~deb12u2`. None: no mirror has the package.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?.to_owned();
    (version != "(none)").then_some(version)
}

fn apt_install(bar: &ProgressBar, packages: &[&str]) -> Result<()> {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    progress::command(bar, &mut command).map(drop)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}

/// Until it is dropped, installed packages do not start their services (squid would listen on every address): invoke-rc.d asks
/// `policy-rc.d`, and 101 forbids. A machine that has a policy of its own keeps it.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn begin() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
            file.with_context(|| format!("cannot write {POLICY}"))?;
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("cannot remove {POLICY}: {error}");
        }
    }
}
