//! Where the container runtime listens: given, or found among the default paths of the runtimes.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeEndpoint(pub PathBuf);

/// The default paths of containerd, CRI-O, k3s and RKE2, `MicroK8s`, k0s, and the shim for Docker.
const DEFAULT_PATHS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/cri-dockerd.sock",
];

/// Where the node's file system is, from the first place to look at to the last. `kubectl debug node/NODE` mounts it at /host:
/// <https://kubernetes.io/docs/tasks/debug/debug-cluster/kubectl-node-debug/>
const NODE_ROOTS: [&str; 2] = ["/", "/host"];

impl RuntimeEndpoint {
    /// The first of the default paths that exists, in this file system or in the node's.
    pub fn find() -> Option<Self> {
        Self::find_below(&NODE_ROOTS.map(Path::new))
    }

    fn find_below(roots: &[&Path]) -> Option<Self> {
        let paths = roots
            .iter()
            .flat_map(|root| DEFAULT_PATHS.iter().map(move |path| root.join(path.trim_start_matches('/'))));
        paths.into_iter().find(|path| path.exists()).map(Self)
    }
}

impl FromStr for RuntimeEndpoint {
    type Err = String;

    /// Parses a path, or `unix:///PATH` as crictl and the kubelet take it.
    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            Ok(Self(PathBuf::from(path)))
        } else {
            Err("want the path of a Unix socket, such as unix:///run/containerd/containerd.sock".to_owned())
        }
    }
}

impl fmt::Display for RuntimeEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_of_the_node_is_found_from_a_debug_container() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, host) = (dir.path().join("own"), dir.path().join("host"));
        let roots = [own.as_path(), host.as_path()];
        assert_eq!(RuntimeEndpoint::find_below(&roots), None);
        let socket = host.join("run/crio/crio.sock");
        for socket in [&socket, &own.join("run/k3s/containerd/containerd.sock")] {
            std::fs::create_dir_all(socket.parent().expect("a directory")).expect("made");
        }
        std::fs::write(&socket, "").expect("written");
        assert_eq!(RuntimeEndpoint::find_below(&roots), Some(RuntimeEndpoint(socket)));
        let nearer = own.join("run/k3s/containerd/containerd.sock");
        std::fs::write(&nearer, "").expect("written");
        assert_eq!(RuntimeEndpoint::find_below(&roots), Some(RuntimeEndpoint(nearer)));
    }

    #[test]
    fn path_with_or_without_scheme_is_an_endpoint() {
        let endpoint: RuntimeEndpoint = "unix:///run/crio/crio.sock".parse().expect("an endpoint");
        assert_eq!("/run/crio/crio.sock".parse(), Ok(endpoint.clone()));
        assert_eq!(endpoint.to_string(), "unix:///run/crio/crio.sock");
        for other in ["", "tcp://127.0.0.1:1", "npipe:////./pipe/x", "run/crio.sock", "unix://"] {
            assert!(other.parse::<RuntimeEndpoint>().is_err(), "{other}");
        }
    }
}
