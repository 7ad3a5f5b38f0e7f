//! Fetches Debian's kernels for the guests: apt with lists and sources of its own, so the machine's are not touched, and
//! its own check of signatures. What was fetched once stays in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use crate::progress;
use crate::toolchain::cache;

/// A name for it, the suite that has it, and the families of probes that it takes.
pub(crate) const KERNELS: &[(&str, &str, &[&str])] = &[
    ("5.10", "bullseye", &["fentry", "kprobe"]),
    ("6.1", "bookworm", &["fentry", "kprobe", "cgroup"]),
    ("6.12", "trixie", &["fentry", "kprobe", "cgroup"]),
    ("7", "sid", &["fentry", "kprobe", "cgroup"]),
];

/// Debian's own signatures.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel that was unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What it is asked for by.
    pub(crate) name: &'static str,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// Its modules.
    pub(crate) modules: PathBuf,
}

/// Gets a kernel from the cache, or from the mirror.
pub(crate) fn get(bar: &ProgressBar, name: &'static str, suite: &str) -> Result<Kernel> {
    let dir = cache().join("kernels").join(suite);
    let root = dir.join("root");
    if !root.exists() {
        fetch(bar, &dir, suite)?;
    }
    let modules = ["lib/modules", "usr/lib/modules"].map(|below| root.join(below));
    let modules =
        modules.iter().find_map(|dir| fs::read_dir(dir).ok()?.next()?.ok()).map(|entry| entry.path());
    let modules = modules.with_context(|| format!("{} holds no modules: remove it", dir.display()))?;
    let release = modules.file_name().context("a release")?.to_string_lossy().into_owned();
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.exists());
    Ok(Kernel { name, image: image.with_context(|| format!("{} holds no image", dir.display()))?, modules })
}

fn fetch(bar: &ProgressBar, dir: &Path, suite: &str) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the guests are known for x86_64 only");
    for below in ["lists/partial", "cache/archives/partial", "etc", "packages"] {
        fs::create_dir_all(dir.join(below))?;
    }
    fs::write(dir.join("status"), "")?;
    let sources = dir.join("sources.list");
    fs::write(&sources, format!("deb [arch=amd64 signed-by={KEYRING}] {} {suite} main\n", mirror()))?;
    // An old suite's lists do not change any more, and their date runs out; the signature is what counts.
    let apt = |program: &str| {
        let mut command = Command::new(program);
        let option = |name: &str, below: &str| format!("{name}={}", dir.join(below).display());
        let options = [
            option("Dir::Etc::sourcelist", "sources.list"),
            option("Dir::Etc::sourceparts", "etc"),
            option("Dir::Etc::preferencesparts", "etc"),
            option("Dir::State", "."),
            option("Dir::State::lists", "lists"),
            option("Dir::State::status", "status"),
            option("Dir::Cache", "cache"),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Check-Valid-Until=false".to_owned(),
        ];
        command.env("LC_ALL", "C").current_dir(dir.join("packages"));
        for option in options {
            command.args(["-o", &option]);
        }
        command
    };
    progress::command(bar, apt("apt-get").arg("update"))?;
    // The newest kernel of the suite, and what it is made of: sid has its image and modules in packages of their own.
    let depends = |package: &str| -> Result<Vec<String>> {
        let said = progress::command(bar, apt("apt-cache").args(["depends", "--important", package]))?;
        Ok(said.lines().filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned())).collect())
    };
    let is_part = |name: &String| {
        ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|begin| name.starts_with(begin))
    };
    let mut packages: Vec<String> = depends("linux-image-cloud-amd64")?.into_iter().filter(is_part).collect();
    let Some(image) = packages.first().cloned() else { bail!("{suite} has no linux-image-cloud-amd64") };
    packages.extend(depends(&image)?.into_iter().filter(is_part));
    progress::command(bar, apt("apt-get").arg("download").args(&packages))?;
    let unpacked = tempfile::tempdir_in(dir)?;
    for entry in fs::read_dir(dir.join("packages"))? {
        let package = entry?.path();
        progress::command(bar, Command::new("dpkg-deb").arg("-x").arg(&package).arg(unpacked.path()))?;
    }
    fs::rename(unpacked.keep(), dir.join("root"))?; // in one step: what is there is whole
    Ok(())
}

/// Where the machine itself gets Debian from; else Debian's own.
fn mirror() -> String {
    let listed = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let texts: Vec<String> = listed.chain(fs::read_to_string("/etc/apt/sources.list")).collect();
    let words = texts.iter().flat_map(|text| text.lines().filter(|line| !line.starts_with('#')));
    let mut urls = words.flat_map(str::split_whitespace);
    let found = urls.find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"));
    found.unwrap_or("http://deb.debian.org/debian").to_owned()
}
