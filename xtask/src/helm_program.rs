//! Compiles Helm from the Go module `tests/helm` into the cache, as `mesh_programs` does the mesh's programs, and puts the
//! definitions of the chart's custom resources beside it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lab::{CHART_CRDS, cached_helm, helm_module};

use crate::install::Job;
use crate::mesh_go::{Go, GoBuild};
use crate::wheel;

/// Whether it is in the cache.
pub(crate) fn is_there() -> bool {
    cached_helm().exists()
}

/// Compiles it, beside what builds our own programs.
pub(crate) fn prepare(bar: &ProgressBar) -> Result<Job> {
    if Go::of_machine()?.is_none() {
        wheel::install_pip(bar)?;
    }
    Ok(Box::new(install))
}

fn install(bar: &ProgressBar) -> Result<String> {
    let start = Instant::now();
    let target = cached_helm();
    let cache = target.parent().context("a folder in the cache")?;
    let work = cache.join("building");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    bar.set_message("waiting for another xtask that compiles it");
    lock.lock().context("cannot lock the cache of Helm")?;
    if is_there() {
        return Ok(format!("compiled meanwhile by another xtask, in {}", target.display()));
    }
    let build = GoBuild::download(bar, Go::find(bar, cache)?, helm_module(), &work)?;
    let programs = build.compile(bar, "-s -w")?;
    collect_crds(&build, &programs)?;
    fs::rename(&programs, &target)?; // in one step: a folder that exists is whole
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    let minutes = start.elapsed().as_secs_f32() / 60.0;
    Ok(format!("with {}, in {} ({minutes:.1} min)", build.go, target.display()))
}

/// Downloads the modules that have the definitions, checks them, and puts the files beside the program.
fn collect_crds(build: &GoBuild, programs: &Path) -> Result<()> {
    for file in CHART_CRDS {
        let answer = build.ask(&["mod", "download", "-json", file.module])?;
        let module: serde_json::Value = serde_json::from_str(&answer).context("go mod download -json")?;
        ensure!(
            module["Sum"] == file.sum,
            "{} is not the one that is pinned: {}",
            file.module,
            module["Sum"]
        );
        let dir = module["Dir"].as_str().with_context(|| format!("{} has no folder", file.module))?;
        let from = Path::new(dir).join(file.path);
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        // Written, not copied: the module's files are read-only.
        fs::write(programs.join(from.file_name().context("a file")?), text)?;
    }
    Ok(())
}
