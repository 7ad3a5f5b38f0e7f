//! Helm, which renders the chart and installs it at the mesh's API server, and the definitions of the custom resources that the
//! chart makes: what pins them, and the folder in which `cargo xtask setup` puts them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use sha2::{Digest as _, Sha256};

use super::programs::{MESH_BUILD_FLAGS, hex};
use crate::envoy::cache_dir;

const MODULE: &str = include_str!("../../helm/go.mod");
const SUMS: &str = include_str!("../../helm/go.sum");

/// A file of a Go module that is only downloaded.
#[derive(Debug)]
pub struct ModuleFile {
    /// Path and version of the module.
    pub module: &'static str,
    /// Its hash, as `go.sum` has it.
    pub sum: &'static str,
    /// The file's path in the module.
    pub path: &'static str,
}

const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const OPERATOR_SUM: &str = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=";

/// The definitions of custom resources that the chart makes.
pub const CHART_CRDS: &[ModuleFile] = &[
    ModuleFile {
        module: OPERATOR,
        sum: OPERATOR_SUM,
        path: "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    },
    ModuleFile {
        module: OPERATOR,
        sum: OPERATOR_SUM,
        path: "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    },
    ModuleFile {
        module: OPERATOR,
        sum: OPERATOR_SUM,
        path: "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    },
    ModuleFile {
        module: "github.com/openshift/api@v0.0.0-20260501191448-a49973eaef53",
        sum: "h1:u5WEBNXUhL2ik6vzBREkYnk+cZqLMUXcSFa6STK/8Bs=",
        path: "security/v1/zz_generated.crd-manifests/0000_03_config-operator_01_securitycontextconstraints.crd.yaml",
    },
];

/// The folder with `go.mod` and `go.sum`.
pub fn helm_module() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/helm"))
}

/// The folder with the program `helm` and the files of [`CHART_CRDS`]. Its name is a hash of all that decides what they are, so
/// a folder that exists is up to date.
pub fn cached_helm() -> PathBuf {
    let mut hash = Sha256::new();
    let crds = CHART_CRDS.iter().flat_map(|file| [file.module, file.sum, file.path]);
    for part in [MODULE, SUMS].into_iter().chain(MESH_BUILD_FLAGS.iter().copied()).chain(crds) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    cache_dir().join("helm").join(hex(&hash.finalize()[..8]))
}

/// A `helm` command that keeps its own files in `home`.
pub fn helm(home: &Path) -> Result<Command> {
    let program = cached_helm().join("helm");
    ensure!(program.exists(), "{} is missing: `cargo xtask setup` compiles it", program.display());
    let mut command = Command::new(program);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home);
    }
    command.env_remove("KUBECONFIG");
    Ok(command)
}
