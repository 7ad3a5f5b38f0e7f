//! `cargo xtask setup`: goes through the table of requirements and installs what is missing. When nothing is, it changes
//! nothing and takes milliseconds.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::progress;
use crate::requirement::{Install, Purpose, REQUIREMENTS, Requirement};
use crate::toolchain::Toolchain;

/// Installs what `purpose` needs. `talk`: also say so when all is there.
pub(crate) fn run(purpose: Purpose, talk: bool) -> Result<()> {
    let start = Instant::now();
    let wanted = || REQUIREMENTS.iter().filter(|requirement| requirement.purpose <= purpose);
    let missing: Vec<&Requirement> = wanted().filter(|requirement| !requirement.is_met()).collect();
    if missing.is_empty() {
        if talk {
            let names: Vec<&str> = wanted().map(|requirement| requirement.name).collect();
            let took = start.elapsed().as_millis();
            eprintln!("Nothing is missing ({}; looked for {took} ms).", names.join(", "));
            if let Ok(toolchain) = Toolchain::find() {
                eprintln!("For the kernel side: {}.", toolchain.describe());
            }
        }
        return Ok(());
    }
    eprintln!("Missing, and installed now:");
    for Requirement { name, why, .. } in &missing {
        eprintln!("  {name:<14} {why}");
    }
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|requirement| match requirement.install {
            Install::Packages(packages) => Some(packages),
            Install::Work(_) => None,
        })
        .flatten()
        .copied()
        .collect();
    if !packages.is_empty() {
        let title = format!("Installing Debian packages: {}", packages.join(" "));
        progress::step(&title, |bar| debian::install(bar, &packages))?;
    }
    for Requirement { name, install, .. } in &missing {
        if let Install::Work(work) = install {
            let chosen = progress::step(&format!("Getting {name}"), work);
            eprintln!("  {}", chosen.with_context(|| format!("cannot get {name}"))?);
        }
    }
    let still: Vec<&str> = missing.iter().filter(|r| !r.is_met()).map(|r| r.name).collect();
    if !still.is_empty() {
        bail!("installed, but still not to be found: {}", still.join(", "));
    }
    Ok(())
}
