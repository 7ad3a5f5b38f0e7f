//! The table of what this project needs from the machine: what, why, how to detect it, how to install it. A test that needs
//! another program adds a row here.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use indicatif::ProgressBar;

use crate::install::{Prepare, is_on_path};
use crate::{cargo_deny, containerd_package, ebpf, envoy_wheel, fuzz, helm_program, mesh_programs, schemas};

/// What a requirement is needed for. Each purpose but `Check` includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Purpose {
    /// Building egress-tracer
    Build,
    /// The checks of sources and dependencies
    Check,
    /// The demo
    Demo,
    /// The guests with other kernels
    Vm,
    /// The fuzz targets
    Fuzz,
    /// The real mesh: etcd, Kubernetes' API server, Istio
    Mesh,
    /// Every test
    Test,
    /// The benchmark
    Bench,
}

impl Purpose {
    /// Whether this purpose also needs the requirements of `other`. Only `Check` includes `Check`, and so with `Fuzz` and
    /// `Mesh`.
    pub(crate) fn includes(self, other: Self) -> bool {
        other == self || (!matches!(other, Self::Check | Self::Fuzz | Self::Mesh) && other < self)
    }
}

/// Something that the project needs from the machine.
#[derive(Debug)]
pub(crate) struct Requirement {
    /// Its name.
    pub(crate) name: &'static str,
    /// Why the project needs it.
    pub(crate) why: &'static str,
    /// The first purpose that needs it.
    pub(crate) purpose: Purpose,
    /// How to detect it.
    pub(crate) probe: Probe,
    /// How to install it.
    pub(crate) install: Install,
}

/// A way to detect something in milliseconds.
#[derive(Debug)]
pub(crate) enum Probe {
    /// These programs are in the system's directories.
    Programs(&'static [&'static str]),
    /// The function returns true.
    Ask(fn() -> bool),
}

/// A way to install something.
#[derive(Debug)]
pub(crate) enum Install {
    /// Debian packages, all installed with one call of apt.
    Packages(&'static [&'static str]),
    /// A function that returns a line about what it installed.
    Work(fn(&ProgressBar) -> Result<String>),
    /// Work that runs beside a build.
    Beside(Prepare),
}

/// In the order of installation.
pub(crate) const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        name: "iproute2",
        why: "the lab's network namespaces are wired with ip",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["ip"]),
        install: Install::Packages(&["iproute2"]),
    },
    Requirement {
        name: "iptables",
        why: "istio-init's rules redirect the pod's connections to the sidecar",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["iptables-restore", "ip6tables-restore"]),
        install: Install::Packages(&["iptables"]),
    },
    Requirement {
        name: "squid",
        why: "the forward proxy that the app means to reach",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["squid"]),
        install: Install::Packages(&["squid"]),
    },
    Requirement {
        name: "curl",
        why: "the app whose CONNECT is HTTP/1.1",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["curl"]),
        install: Install::Packages(&["curl"]),
    },
    Requirement {
        name: "python3",
        why: "the app whose CONNECT is HTTP/1.0",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["python3"]),
        install: Install::Packages(&["python3"]),
    },
    Requirement {
        name: "openssl",
        why: "the TLS server behind the proxy, and its certificate",
        purpose: Purpose::Demo,
        probe: Probe::Programs(&["openssl"]),
        install: Install::Packages(&["openssl"]),
    },
    Requirement {
        name: "eBPF compiler",
        why: "a rustc with the source of core, for the kernel side",
        purpose: Purpose::Build,
        probe: Probe::Ask(ebpf::compiler_is_there),
        install: Install::Work(ebpf::install_compiler),
    },
    Requirement {
        name: "bpf-linker",
        why: "makes the kernel object from that compiler's bitcode",
        purpose: Purpose::Build,
        probe: Probe::Ask(ebpf::linker_is_there),
        install: Install::Beside(ebpf::prepare_linker),
    },
    Requirement {
        name: "protoc",
        why: "makes the client of container runtimes from its interface's definition",
        purpose: Purpose::Build,
        probe: Probe::Programs(&["protoc"]),
        install: Install::Packages(&["protobuf-compiler"]),
    },
    Requirement {
        name: "cargo-deny",
        why: "holds the rules for dependencies and their licenses",
        purpose: Purpose::Check,
        probe: Probe::Ask(cargo_deny::is_there),
        install: Install::Beside(cargo_deny::prepare),
    },
    Requirement {
        name: "cargo-fuzz",
        why: "builds and runs the fuzz targets",
        purpose: Purpose::Fuzz,
        probe: Probe::Ask(fuzz::is_there),
        install: Install::Beside(fuzz::prepare),
    },
    Requirement {
        name: "qemu",
        why: "boots the guests in which the probes meet other kernels",
        purpose: Purpose::Vm,
        probe: Probe::Programs(&["qemu-system-x86_64"]),
        install: Install::Packages(&["qemu-system-x86"]),
    },
    Requirement {
        name: "Envoy",
        why: "the real sidecar, from a pinned wheel whose hash is checked",
        purpose: Purpose::Demo,
        probe: Probe::Ask(envoy_wheel::is_there),
        install: Install::Beside(envoy_wheel::prepare),
    },
    Requirement {
        name: "nftables",
        why: "istio-iptables writes a pod's rules with it, where it is told so",
        purpose: Purpose::Mesh,
        probe: Probe::Programs(&["nft"]),
        install: Install::Packages(&["nftables"]),
    },
    Requirement {
        name: "real mesh",
        why: "etcd, Kubernetes' API server and Istio, compiled from pinned Go modules (about 15 min, once)",
        purpose: Purpose::Mesh,
        probe: Probe::Ask(mesh_programs::are_there),
        install: Install::Beside(mesh_programs::prepare),
    },
    Requirement {
        name: "Helm",
        why: "renders the chart, and installs it at that API server; compiled from a pinned Go module",
        purpose: Purpose::Mesh,
        probe: Probe::Ask(helm_program::is_there),
        install: Install::Beside(helm_program::prepare),
    },
    Requirement {
        name: "oldest Envoy",
        why: "the main cases are tested with it, too",
        purpose: Purpose::Test,
        probe: Probe::Ask(envoy_wheel::oldest_is_there),
        install: Install::Beside(envoy_wheel::prepare_oldest),
    },
    Requirement {
        name: "buildah",
        why: "makes the container image, without a daemon",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["buildah"]),
        install: Install::Packages(&["buildah"]),
    },
    Requirement {
        name: "JSON Schema and YAML",
        why: "check the manifests, in Python",
        purpose: Purpose::Test,
        probe: Probe::Ask(|| {
            let modules =
                ["jsonschema", "yaml"].map(|name| Path::new("/usr/lib/python3/dist-packages").join(name));
            modules.iter().all(|module| module.exists())
        }),
        install: Install::Packages(&["python3-jsonschema", "python3-yaml"]),
    },
    Requirement {
        name: "Kubernetes' schemas",
        why: "what the manifests are checked against, of three minor versions",
        purpose: Purpose::Test,
        probe: Probe::Ask(schemas::are_there),
        install: Install::Work(schemas::install),
    },
    Requirement {
        name: "containerd",
        why: "the real container runtime of the node in which the image runs as an agent",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["containerd", "ctr", "runc"]),
        install: Install::Packages(&["containerd", "runc"]),
    },
    Requirement {
        name: "newer containerd",
        why: "one that tells of changes; the machine's is asked",
        purpose: Purpose::Test,
        probe: Probe::Ask(containerd_package::is_there),
        install: Install::Work(containerd_package::install),
    },
    Requirement {
        name: "CNI plugins",
        why: "give that node's pods their network",
        purpose: Purpose::Test,
        probe: Probe::Ask(|| Path::new("/usr/lib/cni/bridge").exists()),
        install: Install::Packages(&["containernetworking-plugins"]),
    },
    Requirement {
        name: "wget",
        why: "one of the real clients of the cases",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["wget"]),
        install: Install::Packages(&["wget"]),
    },
    Requirement {
        name: "socat",
        why: "one of the real clients of the cases, whose CONNECT is HTTP/1.0",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["socat"]),
        install: Install::Packages(&["socat"]),
    },
    Requirement {
        name: "strace",
        why: "answers a system call in the place of a kernel that cannot be had",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["strace"]),
        install: Install::Packages(&["strace"]),
    },
    Requirement {
        name: "Prometheus",
        why: "scrapes the tracer and evaluates the alert rules; promtool checks and tests them",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["prometheus", "promtool"]),
        install: Install::Packages(&["prometheus"]),
    },
    Requirement {
        name: "Alertmanager",
        why: "sends the alerts to a webhook",
        purpose: Purpose::Test,
        probe: Probe::Programs(&["prometheus-alertmanager"]),
        install: Install::Packages(&["prometheus-alertmanager"]),
    },
    Requirement {
        name: "tcpdump",
        why: "what an engineer would use instead: the benchmark measures it on the same traffic",
        purpose: Purpose::Bench,
        probe: Probe::Programs(&["tcpdump"]),
        install: Install::Packages(&["tcpdump"]),
    },
    Requirement {
        name: "tshark",
        why: "the other thing that an engineer would use instead",
        purpose: Purpose::Bench,
        probe: Probe::Programs(&["tshark"]),
        install: Install::Packages(&["tshark"]),
    },
    Requirement {
        name: "bpftrace",
        why: "what an engineer would use on a kernel with tracing: measured in a guest",
        purpose: Purpose::Bench,
        probe: Probe::Programs(&["bpftrace"]),
        install: Install::Packages(&["bpftrace"]),
    },
    Requirement {
        name: "libbpf-tools",
        why: "the same: its tcpconnect and tcptracer",
        purpose: Purpose::Bench,
        probe: Probe::Programs(&["tcpconnect", "tcptracer"]),
        install: Install::Packages(&["libbpf-tools"]),
    },
];

impl Requirement {
    /// Whether it was detected.
    pub(crate) fn is_met(&self) -> bool {
        match self.probe {
            Probe::Programs(programs) => programs.iter().all(|program| is_on_path(program)),
            Probe::Ask(ask) => ask(),
        }
    }
}
