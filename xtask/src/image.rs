//! `cargo xtask image`: the container image, from nothing but one static binary and its bill of materials, without a
//! daemon and the same to the byte each time.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::debian;
use crate::progress;
use crate::requirement::{Purpose, is_on_path};
use crate::sbom;
use crate::setup;

/// The most bytes that it may have, unpacked.
const MOST: u64 = 20_000_000;
/// What it is called in its archive.
const NAME: &str = "ghcr.io/egress-tracer/egress-tracer";

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

/// Builds it and says what came of it.
pub(crate) fn run() -> Result<()> {
    setup::run(Purpose::Build, false)?;
    if !is_on_path("buildah") {
        progress::step("Installing buildah, which makes images without a daemon", |bar| {
            debian::install(bar, &["buildah"])
        })?;
    }
    let Image { archive, digest, size, linked } = build(RELEASED)?;
    println!("{}\n{NAME}@{digest}", archive.display());
    eprintln!(
        "{:.1} MB unpacked, static with {linked}; its bill of materials is in it, and beside it.",
        mb(size)
    );
    Ok(())
}

/// The profile of the image that is released.
pub(crate) const RELEASED: &str = "release";
/// The profile of the image that the tests run: as small and as reproducible, and built in less time.
pub(crate) const FOR_TESTS: &str = "image-test";

/// Builds it with a profile of cargo's.
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
    ensure!(size < MOST, "the image would have {:.1} MB; {:.0} MB is the most", mb(size), mb(MOST));
    let archive = dir.join("egress-tracer.oci.tar");
    let digest = progress::step("Making the image", |bar| pack(bar, &context, &archive))?;
    fs::write(dir.join("digest"), format!("{digest}\n"))?;
    Ok(Image { archive, digest, size, linked })
}

/// The target to link statically for: musl's where the toolchain has its library, else glibc's own.
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
    // Where something was compiled is nobody's business, and would make two builds differ.
    let places = places()?;
    let remapped = places.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let mut flags: Vec<String> = remapped.collect();
    if linked == "glibc" {
        flags.push("-Ctarget-feature=+crt-static".to_owned());
    }
    command.arg("--config").arg(format!("target.{target}.rustflags={}", serde_json::to_string(&flags)?));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS"); // these would take the place of ours
    let said = cargo::build(bar, &mut command)?;
    let binary = cargo::executable(&said, "egress-tracer")?;
    let bytes = fs::read(&binary)?;
    for (path, _) in &places {
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

/// Where sources are on this machine, and what the binary calls these places.
fn places() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let workspace = fs::canonicalize(cargo::workspace())?;
    Ok([(workspace, ".")].into_iter().chain(home.map(|home| (home, "cargo"))).collect())
}

/// Makes an archive, and gives back the manifest's digest.
fn pack(bar: &indicatif::ProgressBar, context: &Path, archive: &Path) -> Result<String> {
    let store = tempfile::tempdir().context("cannot make a place for buildah's images")?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.path().join("root")).arg("--runroot").arg(store.path().join("run"));
        command.args(["--storage-driver", "vfs"]); // copies: needs no mounts
        command
    };
    let containerfile = fs::canonicalize(cargo::workspace().join("deploy/Containerfile"))?;
    let tag = format!("{NAME}:{}", env!("CARGO_PKG_VERSION"));
    // One time for everything: when it was built must not be in it.
    let mut build = buildah();
    build.args(["build", "--timestamp", "0", "--format", "oci", "--isolation", "chroot", "--quiet"]);
    build.args(["--tag", &tag, "--file"]).arg(containerfile).arg(context);
    progress::command(bar, &mut build)?;
    // Of a name that is there, buildah would add to it.
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
