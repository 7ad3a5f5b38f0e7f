//! Where the container runtime listens: given, or found among the default paths of the runtimes.

use std::{fmt, path::PathBuf, str::FromStr};

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(pub PathBuf);

/// The default paths of containerd, CRI-O, k3s and RKE2, `MicroK8s`, k0s, and the shim for Docker.
const DEFAULT_PATHS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
    "/run/cri-dockerd.sock",
];

impl Endpoint {
    /// The first of the default paths that exists.
    pub fn find() -> Option<Self> {
        DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists()).map(Self)
    }
}

impl FromStr for Endpoint {
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_with_or_without_scheme_is_an_endpoint() {
        let endpoint: Endpoint = "unix:///run/crio/crio.sock".parse().expect("an endpoint");
        assert_eq!("/run/crio/crio.sock".parse(), Ok(endpoint.clone()));
        assert_eq!(endpoint.to_string(), "unix:///run/crio/crio.sock");
        for other in ["", "tcp://127.0.0.1:1", "npipe:////./pipe/x", "run/crio.sock", "unix://"] {
            assert!(other.parse::<Endpoint>().is_err(), "{other}");
        }
    }
}
