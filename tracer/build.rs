//! Builds the kernel object with a nested cargo and tells the crate where it is (`EGRESS_TRACER_BPF_OBJECT`).
//! With `EGRESS_TRACER_SKIP_BPF=1` the object is an empty file, so that userspace builds without the eBPF
//! toolchain. It never installs anything.

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
        println!("cargo::rustc-cfg=without_kernel_programs"); // tests that run them are left out, and say so
        fs::write(&object, []).map_err(|e| format!("cannot write {}: {e}", object.display()))
    } else {
        find_toolchain().and_then(|toolchain| build(&toolchain, &object))
    };
    if let Err(error) = result {
        println!("cargo::error={error}"); // cargo prints this one sentence and stops
    }
}

/// Where the linker is missing but `cargo xtask setup` is building it, waits for that. The other crates build meanwhile.
fn find_toolchain() -> Result<Toolchain, String> {
    Toolchain::find().or_else(|error| {
        let lock = fs::File::open(Linker::setup_lock()).and_then(|file| file.lock_shared());
        if lock.is_ok() { Toolchain::find() } else { Err(error) }
    })
}

/// The nested cargo has a target directory of its own under the outer one: it shares no lock, and a debug build, a
/// release build and clippy share its work.
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
        "-Cdebuginfo=2".to_owned(), // what BTF is made from
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""), // which registers aya-ebpf's contexts have
    ];
    // BTF names source files. Where they were compiled is nobody's business, and would make two builds differ.
    let workspace = fs::canonicalize("..").map_err(|e| format!("cannot find the workspace: {e}"))?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    for (path, name) in [(Some(workspace), "."), (home, "cargo")] {
        rustflags.extend(path.map(|path| format!("--remap-path-prefix={}={name}", path.display())));
    }
    let rustflags = rustflags.join("\x1f");

    // A rustup toolchain has the cargo that knows its library's layout; a system's cargo may be ages behind its rustc.
    let own =
        Some(compiler.rustc.with_file_name("cargo")).filter(|own| own.exists() && !own.starts_with("/usr"));
    let cargo = own.or_else(|| env::var_os("CARGO").map(PathBuf::from)).unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Whatever steers the outer build (its wrappers, clippy's among them, its flags, its target) is not for the kernel.
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
        .env("RUSTC_BOOTSTRAP", "1") // -Zbuild-std on a stable compiler; a nightly does not mind
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("CARGO_PROFILE_RELEASE_STRIP", "none") // would take the BTF with it
        .env("CARGO_PROFILE_RELEASE_LTO", "off") // bpf-linker itself optimises the whole
        .output()
        .map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}\nThe eBPF programs did not build with {}.", toolchain.describe());
        exit(1); // a failed build script's stderr is shown whole
    }
    // A warning's place is on the line after its text; cargo's own summary ("warning: `tracer-ebpf` …") has none.
    let lines: Vec<_> = said.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("warning: ") && pair[1].contains("--> ")) {
        println!("cargo::warning=tracer-ebpf: {}{}", pair[0], pair[1]);
    }
    let built = target_dir.join(target).join("release/tracer-ebpf");
    let copied = fs::copy(&built, object).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
    println!("built {copied} bytes with {}", toolchain.describe());
    Ok(())
}

/// Variables of the outer build; those that end in `_` are prefixes.
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
