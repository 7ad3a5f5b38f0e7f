//! `cargo xtask image`: the container image, which holds one static binary and its bill of materials. The build needs no daemon
//! and is reproducible.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::debian;
use crate::install::is_on_path;
use crate::progress;
use crate::requirement::Purpose;
use crate::sbom;
use crate::setup;

/// Limit for its unpacked size, in bytes.
const MAX_SIZE: u64 = 20_000_000;
/// Its name in the archive.
const REPOSITORY: &str = "ghcr.io/egress-tracer/egress-tracer";

/// A built image.
#[derive(Debug)]
pub(crate) struct Image {
    /// The OCI archive.
    pub(crate) archive: PathBuf,
    /// The manifest's digest.
    digest: String,
    size: u64,
    linked: &'static str,
}

/// Builds the image for a release, and prints its path and digest.
pub(crate) fn run() -> Result<()> {
    setup::run(Purpose::Build, false)?;
    if !is_on_path("buildah") {
        progress::step("Installing buildah, which makes images without a daemon", |bar| {
            debian::install(bar, &["buildah"])
        })?;
    }
    let Image { archive, digest, size, linked } = build(RELEASED)?;
    println!("{}\n{REPOSITORY}@{digest}", archive.display());
    eprintln!(
        "{:.1} MB unpacked, static with {linked}; its bill of materials is in it, and beside it.",
        mb(size)
    );
    Ok(())
}

/// The profile of the image that is released.
pub(crate) const RELEASED: &str = "release";
/// The profile of the image that the tests run: static and reproducible too, but quicker to build.
pub(crate) const FOR_TESTS: &str = "image-test";

/// Builds the image with a cargo profile.
pub(crate) fn build(profile: &str) -> Result<Image> {
    let (target, linked) = target()?;
    let binary =
        progress::step("Building a static egress-tracer", |bar| compile(bar, profile, &target, linked))?;
    let dir = cargo::target_dir()?.join("image");
    let context = dir.join("context");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
    let metadata = progress::step("Listing what is in it", |bar| sbom::metadata(bar, &target))?;
    let sbom = sbom::of(&metadata)?;
    fs::write(context.join("sbom.cdx.json"), &sbom)?;
    fs::write(dir.join("sbom.cdx.json"), &sbom)?;
    fs::copy(&binary, context.join("egress-tracer"))?;
    let size = fs::metadata(&binary)?.len() + u64::try_from(sbom.len())?;
    ensure!(size < MAX_SIZE, "the image would have {:.1} MB; {:.0} MB is the most", mb(size), mb(MAX_SIZE));
    let archive = dir.join("egress-tracer.oci.tar");
    let digest = progress::step("Making the image", |bar| pack(bar, &context, &archive))?;
    fs::write(dir.join("digest"), format!("{digest}\n"))?;
    Ok(Image { archive, digest, size, linked })
}

/// The target for static linking: musl where the toolchain has its standard library, otherwise glibc.
fn target() -> Result<(String, &'static str)> {
    let musl = format!("{ARCH}-unknown-linux-musl");
    let mut rustc = cargo::rustc();
    rustc.args(["--print", "target-libdir", "--target", &musl]);
    let asked = rustc.output().context("cannot ask rustc where its libraries are")?;
    let has_musl =
        asked.status.success() && Path::new(String::from_utf8_lossy(&asked.stdout).trim()).exists();
    Ok(if has_musl { (musl, "musl") } else { (format!("{ARCH}-unknown-linux-gnu"), "glibc") })
}

fn compile(bar: &indicatif::ProgressBar, profile: &str, target: &str, linked: &str) -> Result<PathBuf> {
    let mut command = cargo::here();
    command.args(["build", "--package", "tracer", "--bin", "egress-tracer"]);
    command.args(["--profile", profile, "--target", target]);
    // Paths of this machine would make two builds differ.
    let source_dirs = source_dirs()?;
    let remapped =
        source_dirs.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let mut flags: Vec<String> = remapped.collect();
    if linked == "glibc" {
        flags.push("-Ctarget-feature=+crt-static".to_owned());
    }
    command.arg("--config").arg(format!("target.{target}.rustflags={}", serde_json::to_string(&flags)?));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS"); // these would replace ours
    let said = cargo::build(bar, &mut command)?;
    let binary = cargo::executable(&said, "egress-tracer")?;
    let bytes = fs::read(&binary)?;
    for (path, _) in &source_dirs {
        let path = path.as_os_str().as_encoded_bytes();
        ensure!(
            !bytes.windows(path.len()).any(|window| window == path),
            "{} names {}, so it would differ from one built elsewhere",
            binary.display(),
            String::from_utf8_lossy(path)
        );
    }
    Ok(binary)
}

/// Directories of sources on this machine, and their names in the binary.
fn source_dirs() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let workspace = fs::canonicalize(cargo::workspace())?;
    Ok([(workspace, ".")].into_iter().chain(home.map(|home| (home, "cargo"))).collect())
}

/// Writes the archive, and returns the manifest's digest.
fn pack(bar: &indicatif::ProgressBar, context: &Path, archive: &Path) -> Result<String> {
    let store = tempfile::tempdir().context("cannot make a place for buildah's images")?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.path().join("root")).arg("--runroot").arg(store.path().join("run"));
        command.args(["--storage-driver", "vfs"]); // needs no mounts
        command
    };
    let containerfile = fs::canonicalize(cargo::workspace().join("deploy/Containerfile"))?;
    let tag = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
    // A fixed timestamp: the time of the build would make two builds differ.
    let mut build = buildah();
    build.args(["build", "--timestamp", "0", "--format", "oci", "--isolation", "chroot", "--quiet"]);
    build.args(["--tag", &tag, "--file"]).arg(containerfile).arg(context);
    progress::command(bar, &mut build)?;
    // buildah would add to an archive that exists.
    let _ = fs::remove_file(archive);
    let digest = store.path().join("digest");
    let mut push = buildah();
    push.args(["push", "--quiet", "--digestfile"]).arg(&digest).arg(&tag);
    push.arg(format!("oci-archive:{}:{tag}", archive.display()));
    progress::command(bar, &mut push)?;
    Ok(fs::read_to_string(digest)?.trim().to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
