//! Installs the eBPF toolchain by trying what the machine's mirrors have. `toolchain.rs` decides what counts as one.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use crate::cargo;
use crate::debian;
use crate::install::Job;
use crate::progress;
use crate::toolchain::{BPF_LINKER_VERSION, Compiler, Linker, Toolchain};

/// Pairs of Debian packages that hold a rustc and the source of core, newest first: `-web` is the one that follows
/// Firefox through a stable release.
const PACKAGES: &[[&str; 2]] = &[["rustc-web", "rust-web-src"], ["rustc", "rust-src"]];

/// LLVMs that this bpf-linker can be built with.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Whether any compiler is usable.
pub(crate) fn compiler_is_there() -> bool {
    !Compiler::all().is_empty()
}

/// Whether a linker fits a compiler.
pub(crate) fn linker_is_there() -> bool {
    Toolchain::find().is_ok()
}

/// Tries Debian's compilers, then a component of rustup.
pub(crate) fn install_compiler(bar: &ProgressBar) -> Result<String> {
    let mut tried = Vec::new();
    let recent = || {
        PACKAGES.iter().any(|[rustc, _]| debian::candidate(rustc).is_some_and(|v| Compiler::is_recent(&v)))
    };
    if debian::is_here() && !recent() {
        debian::update(bar)?; // the package lists may be missing or old
    }
    for pair in PACKAGES {
        let Some(version) = debian::candidate(pair[0]) else {
            tried.push(format!("no mirror has {}", pair[0]));
            continue;
        };
        if !Compiler::is_recent(&version) {
            tried.push(format!("{} is {version}, too old", pair[0]));
            continue;
        }
        match debian::install(bar, pair) {
            Ok(()) if compiler_is_there() => return Ok(format!("{} {version}, with {}", pair[0], pair[1])),
            Ok(()) => tried.push(format!("{} {version} is of no use", pair[0])),
            Err(error) => tried.push(format!("{}: {error:#}", pair[0])),
        }
    }
    // rustup waits long for a server that it cannot reach.
    let mut rustup = Command::new("timeout");
    rustup.args(["180", "rustup", "component", "add", "rust-src"]);
    match progress::command(bar, &mut rustup) {
        Ok(_) if compiler_is_there() => {
            return Ok(format!("rust-src, added to rustup's active toolchain, because {}", tried.join("; ")));
        }
        Ok(_) => tried.push("rustup's rust-src is of no use".to_owned()),
        Err(error) => tried.push(format!("{error:#}")),
    }
    bail!("no usable rustc with the source of core: {}", tried.join("; "))
}

/// Installs the LLVM that the compiler has. The returned job builds bpf-linker against it; build scripts that need the linker
/// wait until the job is done or dropped.
pub(crate) fn prepare_linker(bar: &ProgressBar) -> Result<Job> {
    let compilers = Compiler::all();
    let compiler = compilers.iter().find(|compiler| LLVMS.contains(&compiler.llvm));
    let compiler = compiler.with_context(|| {
        format!(
            "bpf-linker {BPF_LINKER_VERSION} is for LLVM {LLVMS:?}, and no compiler here is: {compilers:?}"
        )
    })?;
    let llvm = compiler.llvm;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("lib/libLLVM.so").exists() {
        let package = format!("llvm-{llvm}-dev");
        if debian::candidate(&package).is_none() {
            debian::update(bar)?;
        }
        debian::install(bar, &[&package])?;
    }
    let installing = lock_linker()?;
    Ok(Box::new(move |bar| {
        let root = Linker::cache_root();
        let mut install = cargo::install_tool("bpf-linker", BPF_LINKER_VERSION, &root);
        install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        install.env("LLVM_PREFIX", &prefix); // otherwise any llvm-config in PATH decides
        progress::command(bar, &mut install)?;
        drop(installing);
        ensure!(linker_is_there(), "bpf-linker was built in {} but does not run", root.display());
        Ok(format!("bpf-linker {BPF_LINKER_VERSION} with LLVM {llvm}, in {}", root.display()))
    }))
}

/// Takes the lock that `tracer/build.rs` waits for.
fn lock_linker() -> Result<File> {
    let path = Linker::setup_lock();
    let open = || -> std::io::Result<File> {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let file = File::create(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().with_context(|| format!("cannot lock {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_are_told_apart() {
        assert!(Compiler::is_recent("1.96.0+dfsg1-1~deb12u2"));
        assert!(!Compiler::is_recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!Compiler::is_recent("1.63.0+dfsg1-2"));
        assert!(!Compiler::is_recent("(none)"));
    }
}
