//! Finds the compiler and the linker for the kernel side: a rustc with the source of `core`, and a bpf-linker whose LLVM can
//! read that rustc's output. It installs nothing; `cargo xtask setup` does. `build.rs` and `xtask` share this file, so that both
//! select the same toolchain.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The version of bpf-linker that `cargo xtask setup` installs.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// A rustc that can build `core` for the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// The compiler, not a rustup shim.
    pub(crate) rustc: PathBuf,
    /// `release` of `rustc -vV`, such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A bpf-linker that runs.
#[derive(Debug, Clone)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A compiler, and a linker that can read its output.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// Produces the bitcode.
    pub(crate) compiler: Compiler,
    /// Produces the object.
    pub(crate) linker: Linker,
}

impl Toolchain {
    /// The first matching pair, with compilers and linkers in the order of preference. The error is one sentence.
    pub(crate) fn find() -> Result<Self, String> {
        let compilers = Compiler::all();
        let linkers = Linker::all();
        let setup = "`cargo xtask setup` installs what is missing";
        if compilers.is_empty() {
            return Err(format!(
                "the eBPF programs need a rustc {MINIMUM} or newer with the source of `core` (rustup component \
                 rust-src, or Debian's rustc-web and rust-web-src), and there is none: {setup}"
            ));
        }
        if linkers.is_empty() {
            return Err(format!("the eBPF programs need bpf-linker, and there is none that runs: {setup}"));
        }
        // LLVM reads bitcode of its own version and older ones.
        let pair = compilers
            .iter()
            .find_map(|c| linkers.iter().find(|l| l.llvm >= c.llvm).map(|l| (c.clone(), l.clone())));
        match pair {
            Some((compiler, linker)) => Ok(Self { compiler, linker }),
            None => Err(format!(
                "no bpf-linker here can read what {} makes (LLVM {}): {setup}",
                compilers[0].rustc.display(),
                compilers[0].llvm,
            )),
        }
    }

    /// The compiler and the linker in one line.
    pub(crate) fn describe(&self) -> String {
        format!(
            "rustc {} ({}, LLVM {}), bpf-linker {} (LLVM {})",
            self.compiler.release,
            self.compiler.rustc.display(),
            self.compiler.llvm,
            self.linker.path.display(),
            self.linker.llvm,
        )
    }
}

/// The workspace's `rust-version`: an older rustc rejects the kernel crate.
const MINIMUM: &str = env!("CARGO_PKG_RUST_VERSION");

impl Compiler {
    /// Every usable compiler: rustup's toolchains that have rust-src (nightlies first), then the system's.
    pub(crate) fn all() -> Vec<Self> {
        let mut sysroots = rustup_toolchains();
        sysroots.push(PathBuf::from("/usr"));
        sysroots.iter().filter_map(|sysroot| Self::in_sysroot(sysroot)).collect()
    }

    /// Whether a version, such as `1.96.0` or Debian's `1.96.0+dfsg1-1`, is at least the workspace's `rust-version`.
    pub(crate) fn is_recent(release: &str) -> bool {
        version(release) >= version(MINIMUM)
    }

    fn in_sysroot(sysroot: &Path) -> Option<Self> {
        let rustc = sysroot.join("bin/rustc");
        if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists() {
            return None;
        }
        let said = output(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ")?.to_owned();
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        if !Self::is_recent(&release) {
            return None;
        }
        Some(Self { rustc, release, llvm })
    }
}

impl Linker {
    /// Every bpf-linker that runs: the one `cargo xtask setup` installed, then cargo's, then those on the `PATH`.
    pub(crate) fn all() -> Vec<Self> {
        let mut dirs = vec![Self::cache_root().join("bin")];
        dirs.extend(home("CARGO_HOME", ".cargo").map(|dir| dir.join("bin")));
        dirs.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        let mut seen: Vec<PathBuf> = Vec::new();
        dirs.retain(|dir| !seen.contains(dir) && (seen.push(dir.clone()), true).1);
        dirs.iter().filter_map(|dir| Self::at(dir.join("bpf-linker"))).collect()
    }

    /// Where `cargo xtask setup` installs: the `--root` of `cargo install`.
    pub(crate) fn cache_root() -> PathBuf {
        cache().join("bpf-linker").join(BPF_LINKER_VERSION)
    }

    /// The file that `cargo xtask setup` keeps locked while it builds bpf-linker beside the rest.
    pub(crate) fn setup_lock() -> PathBuf {
        cache().join("bpf-linker/setup.lock")
    }

    fn at(path: PathBuf) -> Option<Self> {
        if !path.exists() {
            return None;
        }
        // LLVM handles this option before the linker runs, and prints "… LLVM version 22.1.8".
        let said = output(Command::new(&path).args([
            "--llvm-args=--version",
            "--output",
            "/dev/null",
            "/dev/null",
        ]))?;
        let llvm = said.split("LLVM version ").nth(1)?.split('.').next()?.parse().ok()?;
        Some(Self { path, llvm })
    }
}

/// The project's cache directory: `$XDG_CACHE_HOME/egress-tracer`, or `~/.cache/egress-tracer`.
pub(crate) fn cache() -> PathBuf {
    home("XDG_CACHE_HOME", ".cache").unwrap_or_else(env::temp_dir).join("egress-tracer")
}

fn rustup_toolchains() -> Vec<PathBuf> {
    let dir = home("RUSTUP_HOME", ".rustup").map(|dir| dir.join("toolchains"));
    let mut found: Vec<PathBuf> = dir
        .and_then(|dir| fs::read_dir(dir).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    // A nightly supports -Zbuild-std without RUSTC_BOOTSTRAP, so nightlies come first; then by name.
    found.sort_by_key(|path| (!path.to_string_lossy().contains("nightly"), path.clone()));
    found
}

fn home(variable: &str, below_home: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(below_home)))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
