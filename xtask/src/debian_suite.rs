//! Packages of a Debian suite other than the machine's. apt runs with its own sources and lists and checks signatures; the
//! packages are unpacked into a directory, and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use indicatif::ProgressBar;

use crate::progress;

/// Debian's signing keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite with fetched package lists.
#[derive(Debug)]
pub(crate) struct DebianSuite {
    dir: PathBuf,
}

impl DebianSuite {
    /// Fetches the lists of `suite`. Lists, packages and the unpacked root are kept in `dir`.
    pub(crate) fn open(bar: &ProgressBar, dir: &Path, suite: &str) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "packages of other suites are known for x86_64 only");
        for below in ["lists/partial", "cache/archives/partial", "etc", "packages"] {
            fs::create_dir_all(dir.join(below))?;
        }
        fs::write(dir.join("status"), "")?;
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] {} {suite} main\n", mirror());
        fs::write(dir.join("sources.list"), source)?;
        let this = Self { dir: dir.to_owned() };
        progress::command(bar, this.apt("apt-get").arg("update"))?;
        Ok(this)
    }

    /// The packages that `package` depends on directly.
    pub(crate) fn depends(&self, bar: &ProgressBar, package: &str) -> Result<Vec<String>> {
        let said = progress::command(bar, self.apt("apt-cache").args(["depends", "--important", package]))?;
        let depends = |line: &str| Some(line.trim().strip_prefix("Depends: ")?.to_owned());
        Ok(said.lines().filter_map(depends).collect())
    }

    /// Fetches packages, and unpacks them into `root` in the directory.
    pub(crate) fn unpack(&self, bar: &ProgressBar, packages: &[String]) -> Result<()> {
        progress::command(bar, self.apt("apt-get").arg("download").args(packages))?;
        let unpacked = tempfile::tempdir_in(&self.dir)?;
        for entry in fs::read_dir(self.dir.join("packages"))? {
            let package = entry?.path();
            progress::command(bar, Command::new("dpkg-deb").arg("-x").arg(&package).arg(unpacked.path()))?;
        }
        fs::rename(unpacked.keep(), self.dir.join("root"))?; // atomic: the cache never holds half a root
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, below: &str| format!("{name}={}", self.dir.join(below).display());
        // The lists of an archived suite expire because they are no longer updated. Signatures are still checked.
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
        command.env("LC_ALL", "C").current_dir(self.dir.join("packages"));
        for option in options {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The machine's own Debian mirror, or deb.debian.org.
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
