//! Compiles the programs of the real mesh (etcd, Kubernetes, Istio) from the Go module `tests/mesh` into the cache. A folder
//! that is there is whole and is never compiled again; what the compiler needed on the way is removed.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lab::{ISTIO_FILES, MESH_PROGRAMS, cached_mesh, mesh_module};

use crate::install::Job;
use crate::mesh_go::{Go, GoBuild};
use crate::wheel;

/// Where Kubernetes' programs keep the version that they report. Without it the API server takes itself for 0.0.0 and
/// refuses to start.
const KUBERNETES_VERSION: &str = "k8s.io/component-base/version";

/// Whether they are in the cache.
pub(crate) fn are_there() -> bool {
    cached_mesh().exists()
}

/// Compiles them, beside what builds our own programs.
pub(crate) fn prepare(bar: &ProgressBar) -> Result<Job> {
    if Go::of_machine()?.is_none() {
        wheel::install_pip(bar)?;
    }
    Ok(Box::new(install))
}

fn install(bar: &ProgressBar) -> Result<String> {
    let start = Instant::now();
    let target = cached_mesh();
    let cache = target.parent().context("a folder in the cache")?;
    // One fixed folder: what an interrupted run compiled is used by the next one.
    let work = cache.join("building");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    bar.set_message("waiting for another xtask that compiles them");
    lock.lock().context("cannot lock the cache of the mesh")?;
    if are_there() {
        return Ok(format!(
            "the mesh's programs, compiled meanwhile by another xtask, in {}",
            target.display()
        ));
    }
    let go = Go::find(bar, cache)?;
    let build = GoBuild::download(bar, go, mesh_module(), &work)?;
    let programs = build.compile(bar, &linker_flags(&build)?)?;
    collect(&build, &programs)?;
    fs::rename(&programs, &target)?; // in one step: a folder that exists is whole
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    let minutes = start.elapsed().as_secs_f32() / 60.0;
    Ok(format!(
        "{} programs with {}, in {} ({minutes:.1} min)",
        MESH_PROGRAMS.len(),
        build.go,
        target.display()
    ))
}

/// The linker's flags: Kubernetes' programs get their version.
fn linker_flags(build: &GoBuild) -> Result<String> {
    let version = build.ask(&["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"])?;
    let [major, minor, _] = version.trim_start_matches('v').splitn(3, '.').collect::<Vec<_>>()[..] else {
        anyhow::bail!("the module pins Kubernetes at {version}, which is no version");
    };
    let set = |name: &str, value: &str| format!(" -X {KUBERNETES_VERSION}.{name}={value}");
    Ok(["-s -w".to_owned(), set("gitVersion", &version), set("gitMajor", major), set("gitMinor", minor)]
        .concat())
}

/// Gives etcd its name and puts the Istio module's files beside the programs.
fn collect(build: &GoBuild, programs: &Path) -> Result<()> {
    fs::rename(programs.join("server"), programs.join("etcd")).context("the etcd module built no program")?;
    let istio = build.ask(&["list", "-m", "-f", "{{.Dir}}", "istio.io/istio"])?;
    for file in ISTIO_FILES {
        let from = Path::new(&istio).join(file);
        let to = programs.join(from.file_name().context("a file")?);
        // Written, not copied: the module's files are read-only.
        let text = fs::read(&from).with_context(|| format!("no {} in the Istio module", from.display()))?;
        fs::write(to, text)?;
    }
    for name in MESH_PROGRAMS {
        ensure!(programs.join(name).exists(), "the Go module `tests/mesh` has no tool line for {name}");
    }
    Ok(())
}
