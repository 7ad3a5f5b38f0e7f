//! `cargo xtask setup`: goes through the table of requirements and installs what is missing. Where nothing is missing it
//! changes nothing and takes milliseconds.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::debian;
use crate::install::Job;
use crate::progress;
use crate::requirement::{Install, Purpose, REQUIREMENTS, Requirement};
use crate::toolchain::Toolchain;

/// Installs what `purpose` needs. `talk`: also reports that nothing is missing.
pub(crate) fn run(purpose: Purpose, talk: bool) -> Result<()> {
    // Every test: those of the real mesh are some of them.
    let purposes = if purpose == Purpose::Test { vec![purpose, Purpose::Mesh] } else { vec![purpose] };
    if !run_beside(&purposes, || Ok(()))?.0 && talk {
        report(purpose);
    }
    Ok(())
}

/// Installs what `purposes` need, and runs `build` beside what a build need not wait for. Returns whether anything was
/// missing, and what `build` returned.
pub(crate) fn run_beside<T>(purposes: &[Purpose], build: impl FnOnce() -> Result<T>) -> Result<(bool, T)> {
    let is_wanted = |one: &&Requirement| purposes.iter().any(|purpose| purpose.includes(one.purpose));
    let wanted = REQUIREMENTS.iter().filter(is_wanted);
    let missing: Vec<&Requirement> = wanted.filter(|requirement| !requirement.is_met()).collect();
    if missing.is_empty() {
        return Ok((false, build()?));
    }
    eprintln!("Missing, and installed now:");
    for Requirement { name, why, .. } in &missing {
        eprintln!("  {name:<14} {why}");
    }
    install_packages(&missing)?;
    let mut jobs = Vec::new();
    for Requirement { name, install, .. } in &missing {
        match install {
            Install::Packages(_) => {}
            Install::Work(work) => announce(name, progress::step(&format!("Getting {name}"), work))?,
            Install::Beside(prepare) => {
                let job = progress::step(&format!("Preparing {name}"), prepare);
                jobs.push((*name, job.with_context(|| format!("cannot get {name}"))?));
            }
        }
    }
    let built = run_jobs(jobs, build)?;
    let still: Vec<&str> = missing.iter().filter(|r| !r.is_met()).map(|r| r.name).collect();
    if !still.is_empty() {
        bail!("installed, but still not to be found: {}", still.join(", "));
    }
    Ok((true, built))
}

/// Runs each job on a thread, and `build` on this one. An error of a job comes first: the build may have failed for it.
fn run_jobs<T>(jobs: Vec<(&'static str, Job)>, build: impl FnOnce() -> Result<T>) -> Result<T> {
    thread::scope(|scope| {
        let start = |(name, job): (&'static str, Job)| {
            scope.spawn(move || announce(name, progress::step(&format!("Getting {name}"), job)))
        };
        let started: Vec<_> = jobs.into_iter().map(start).collect();
        let built = build();
        for job in started {
            job.join().map_err(|_| anyhow!("an installation panicked"))??;
        }
        built
    })
}

fn announce(name: &str, chosen: Result<String>) -> Result<()> {
    eprintln!("  {}", chosen.with_context(|| format!("cannot get {name}"))?);
    Ok(())
}

fn install_packages(missing: &[&Requirement]) -> Result<()> {
    let packages: Vec<&str> = missing
        .iter()
        .filter_map(|requirement| match requirement.install {
            Install::Packages(packages) => Some(packages),
            Install::Work(_) | Install::Beside(_) => None,
        })
        .flatten()
        .copied()
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    let title = format!("Installing Debian packages: {}", packages.join(" "));
    progress::step(&title, |bar| debian::install(bar, &packages))
}

fn report(purpose: Purpose) {
    let start = Instant::now();
    let wanted = REQUIREMENTS.iter().filter(|requirement| purpose.includes(requirement.purpose));
    let names: Vec<&str> = wanted.filter(|one| one.is_met()).map(|one| one.name).collect();
    eprintln!("Nothing is missing ({}; looked for {} ms).", names.join(", "), start.elapsed().as_millis());
    if let Ok(toolchain) = Toolchain::find() {
        eprintln!("For the kernel side: {}.", toolchain.describe());
    }
}
