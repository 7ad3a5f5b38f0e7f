//! The programs of the real control plane: the Go module that pins them, the flags that compile them, and the folder in
//! which `cargo xtask setup` puts them. It never compiles anything.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::envoy::cache_dir;

const MODULE: &str = include_str!("../../mesh/go.mod");
const SUMS: &str = include_str!("../../mesh/go.sum");

/// The programs that the folder holds.
pub const MESH_PROGRAMS: &[&str] = &[
    "etcd",
    "istioctl",
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
    "pilot-agent",
    "pilot-discovery",
];

/// Files of the Istio module that the folder holds beside the programs, by their path in the module.
pub const ISTIO_FILES: &[&str] = &[CRDS, BOOTSTRAP];

const CRDS: &str = "manifests/charts/base/files/crd-all.gen.yaml";
const BOOTSTRAP: &str = "tools/packaging/common/envoy_bootstrap.json";

/// Arguments of `go build`. Without DWARF the compiler has less to do, and the programs are smaller.
pub const MESH_BUILD_FLAGS: &[&str] = &["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false"];

/// The folder with `go.mod` and `go.sum`.
pub fn mesh_module() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/mesh"))
}

/// The folder of the compiled programs. Its name is a hash of all that decides what they are, so a folder that exists is
/// up to date.
pub fn cached_mesh() -> PathBuf {
    let mut hash = Sha256::new();
    for part in [MODULE, SUMS].iter().chain(MESH_BUILD_FLAGS).chain(MESH_PROGRAMS).chain(ISTIO_FILES) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    cache_dir().join("mesh").join(hex(&hash.finalize()[..8]))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// One of the programs.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    in_cache(name)
}

/// Istio's custom resource definitions.
pub(super) fn crds() -> Result<PathBuf> {
    in_cache(file_name(CRDS))
}

/// The template from which pilot-agent makes Envoy's bootstrap.
pub(super) fn bootstrap_template() -> Result<PathBuf> {
    in_cache(file_name(BOOTSTRAP))
}

fn in_cache(name: &str) -> Result<PathBuf> {
    let path = cached_mesh().join(name);
    ensure!(
        path.exists(),
        "{name} of the real mesh is not in {}: `cargo xtask setup` compiles it",
        path.display()
    );
    Ok(path)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
