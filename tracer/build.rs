//! Builds the kernel object with a nested cargo and sets its path for the crate (`EGRESS_TRACER_BPF_OBJECT`). With
//! `EGRESS_TRACER_SKIP_BPF=1` the object is an empty file, so that userspace builds without the eBPF toolchain. It installs
//! nothing.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

use toolchain::{Linker, Toolchain};

fn main() {
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("tracer-ebpf.o");
    println!("cargo::rustc-env=EGRESS_TRACER_BPF_OBJECT={}", object.display());
    for path in ["../tracer-ebpf", "../Cargo.lock", "../Cargo.toml", "build.rs", "build/toolchain.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=EGRESS_TRACER_SKIP_BPF");
    println!("cargo::rustc-check-cfg=cfg(without_kernel_programs)");
    let result = if env::var_os("EGRESS_TRACER_SKIP_BPF").is_some_and(|v| !v.is_empty() && v != "0") {
        println!("cargo::rustc-cfg=without_kernel_programs"); // tests that need them are reported as ignored
        fs::write(&object, []).map_err(|e| format!("cannot write {}: {e}", object.display()))
    } else {
        find_toolchain().and_then(|toolchain| build(&toolchain, &object))
    };
    if let Err(error) = result {
        println!("cargo::error={error}"); // cargo prints it and stops
    }
}

/// Where the linker is missing but `cargo xtask setup` is building it, waits for that. The other crates build meanwhile.
fn find_toolchain() -> Result<Toolchain, String> {
    Toolchain::find().or_else(|error| {
        let lock = fs::File::open(Linker::setup_lock()).and_then(|file| file.lock_shared());
        if lock.is_ok() { Toolchain::find() } else { Err(error) }
    })
}

/// The nested cargo has its own target directory under the outer one: the two need no common lock, and a debug build, a release
/// build and clippy share its output.
fn build(toolchain: &Toolchain, object: &Path) -> Result<(), String> {
    let Toolchain { compiler, linker } = toolchain;
    for tool in [&compiler.rustc, &linker.path] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    // Of two marked directories the outer one: `target/TRIPLE` of a build with `--target` is marked, too.
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").exists();
    let target_dir = object.ancestors().find(marked);
    let target_dir = target_dir.map(|dir| dir.parent().filter(marked).unwrap_or(dir));
    let target_dir = target_dir.or(object.parent()).expect("OUT_DIR is a directory").join("bpf");
    let endian = if env::var("CARGO_CFG_TARGET_ENDIAN").is_ok_and(|e| e == "big") { "eb" } else { "el" };
    let target = format!("bpf{endian}-unknown-none");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let mut rustflags = vec![
        format!("-Clinker={}", linker.path.display()),
        "-Cdebuginfo=2".to_owned(), // bpf-linker makes BTF from it
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""), // selects the registers of aya-ebpf's contexts
    ];
    // BTF names source files. Without their directories, builds in two places give the same object.
    let workspace = fs::canonicalize("..").map_err(|e| format!("cannot find the workspace: {e}"))?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    for (path, name) in [(Some(workspace), "."), (home, "cargo")] {
        rustflags.extend(path.map(|path| format!("--remap-path-prefix={}={name}", path.display())));
    }
    let rustflags = rustflags.join("\x1f");

    // -Zbuild-std needs the cargo of the same toolchain; a distribution's cargo may be older than its rustc.
    let own =
        Some(compiler.rustc.with_file_name("cargo")).filter(|own| own.exists() && !own.starts_with("/usr"));
    let cargo = own.or_else(|| env::var_os("CARGO").map(PathBuf::from)).unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The settings of the outer build (wrappers such as clippy's, flags, target) do not apply to the kernel object.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if OUTER.iter().any(|outer| name == *outer || (outer.ends_with('_') && name.starts_with(outer))) {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir("../tracer-ebpf")
        .args(["build", "--release", "--package", "tracer-ebpf", "--bin", "tracer-ebpf"])
        .args(["-Zbuild-std=core", "--target", &target])
        .env("RUSTC", &compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1") // allows -Zbuild-std on a stable compiler
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("CARGO_PROFILE_RELEASE_STRIP", "none") // strip removes BTF
        .env("CARGO_PROFILE_RELEASE_LTO", "off") // bpf-linker optimizes the whole program
        .output()
        .map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}\nThe eBPF programs did not build with {}.", toolchain.describe());
        exit(1); // cargo shows all of a failed build script's stderr
    }
    // A warning's location is on the line after its text; cargo's summary ("warning: `tracer-ebpf` …") has none.
    let lines: Vec<_> = said.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("warning: ") && pair[1].contains("--> ")) {
        println!("cargo::warning=tracer-ebpf: {}{}", pair[0], pair[1]);
    }
    let built = target_dir.join(target).join("release/tracer-ebpf");
    let copied = fs::copy(&built, object).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
    println!("built {copied} bytes with {}", toolchain.describe());
    Ok(())
}

/// Environment variables of the outer build; a name that ends in `_` is a prefix.
const OUTER: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "DEBUG",
    "HOST",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC",
    "RUSTC_",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
    "TARGET",
];
