//! A pod: its object, whose status says that it runs, and its network namespace. What runs in it is started by the test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::agent::PilotAgent;
use super::programs::hex;
use super::{HOST, HOST_V6, ISTIOD, Mesh, c_path, next};
use crate::app::play;
use crate::cgroup::TestCgroup;
use crate::lab::make_dir;
use crate::netns::Netns;
use crate::network::{self, APP_USER, SIDECAR_USER};
use crate::place::Place;
use crate::process::{Process, ProcessOutput};
use crate::script::{Script, Transcript};
use crate::squid::{Squid, SquidPolicy};

/// The node on which all pods are. It needs no kubelet.
pub(super) const NODE: &str = "node1";
const TIMEOUT: Duration = Duration::from_mins(1);

/// What a pod is made from.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// Its namespace, which is made where there is none.
    pub namespace: String,
    /// Its name; the label `app` is the same.
    pub name: String,
    /// Further labels.
    pub labels: Vec<(String, String)>,
    /// Its annotations.
    pub annotations: Vec<(String, String)>,
    /// Names that its processes know besides those of the mesh: (name, address).
    pub hosts: Vec<(String, String)>,
    /// Its sidecar, if it has one.
    pub sidecar: Option<Sidecar>,
}

/// How a sidecar runs and what its pod's rules redirect.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Envoy's worker threads.
    pub concurrency: u32,
    /// How inbound connections are redirected: `REDIRECT`, `TPROXY` or `NONE`, which redirects nothing.
    pub mode: String,
    /// Further arguments of `istio-iptables`, such as `-o 3128` (ports that are left alone) or `--native-nftables`.
    pub rules: Vec<String>,
    /// Fields of the pod's `ProxyConfig`.
    pub proxy_config: Value,
    /// What the sidecar tells istiod of itself, such as `DNS_CAPTURE`.
    pub metadata: Vec<(String, String)>,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            uid: SIDECAR_USER,
            gid: SIDECAR_USER,
            concurrency: 2,
            mode: "REDIRECT".to_owned(),
            rules: Vec::new(),
            proxy_config: json!({}),
            metadata: Vec::new(),
        }
    }
}

impl Sidecar {
    /// One whose pod intercepts inbound connections by TPROXY. Such a sidecar keeps root's capabilities.
    pub fn tproxy() -> Self {
        Self {
            uid: 0,
            mode: "TPROXY".to_owned(),
            metadata: vec![("INTERCEPTION_MODE".to_owned(), "TPROXY".to_owned())],
            ..Self::default()
        }
    }
}

impl Sidecar {
    /// One whose agent answers its app's questions for names.
    pub fn dns_capture() -> Self {
        Self {
            rules: vec!["--redirect-dns".to_owned()],
            metadata: vec![("DNS_CAPTURE".to_owned(), "true".to_owned())],
            ..Self::default()
        }
    }

    /// One in a pod whose rules redirect nothing.
    pub fn without_redirect() -> Self {
        Self {
            mode: "NONE".to_owned(),
            metadata: vec![("INTERCEPTION_MODE".to_owned(), "NONE".to_owned())],
            ..Self::default()
        }
    }
}

impl PodOptions {
    /// A pod without a sidecar.
    pub fn plain(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: Vec::new(),
            annotations: Vec::new(),
            hosts: Vec::new(),
            sidecar: None,
        }
    }

    /// A pod with a default sidecar.
    pub fn injected(namespace: &str, name: &str) -> Self {
        Self { sidecar: Some(Sidecar::default()), ..Self::plain(namespace, name) }
    }
}

/// A running pod. Dropping it ends its processes; the objects stay until the mesh goes.
#[derive(Debug)]
pub struct Pod {
    options: PodOptions,
    address: String,
    address_v6: Option<String>,
    dir: PathBuf,
    cgroup: TestCgroup,
    app: Place,
    root: Place,
    agent: Option<PilotAgent>,
}

impl Mesh {
    /// Makes a pod; with a sidecar, it is ready when this returns.
    pub fn pod(&self, options: &PodOptions) -> Result<Pod> {
        let PodOptions { namespace, name, .. } = options;
        let number = next(&self.address);
        let address = format!("10.233.{}.{}", 1 + number / 200, 10 + number % 200);
        let address_v6 = self.options.dual_stack.then(|| format!("fd00:233::{number:x}"));
        let dir = self.dir.join(format!("{namespace}.{name}"));
        make_dir(&dir)?;
        let netns = Netns::new()?;
        // The container runtimes' default: a process of any user may listen on any port.
        netns.run(|| fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))??;
        let link = format!("link add v{number} type veth peer name eth0 netns {}", netns.path());
        network::ip(&self.control, &[link, format!("link set v{number} master br0 up")])?;

        self.namespace(namespace)?;
        let collection = |kind: &str| format!("/api/v1/namespaces/{namespace}/{kind}");
        self.api.wait(&collection("serviceaccounts"), "default", |_| Some(()))?;
        let made = self.api.create(&collection("pods"), &object(options))?;
        let path = format!("{}/{name}/status", collection("pods"));
        self.api.patch(&path, &status(options, &address, address_v6.as_deref()))?;
        let uid = made["metadata"]["uid"].as_str().context("a pod without a uid")?;

        let hosts = dir.join("hosts");
        let known = options.hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        fs::write(&hosts, format!("127.0.0.1 localhost\n{HOST} {ISTIOD}\n{}", known.collect::<String>()))?;
        // As the kubelet does it: a cgroup for the pod, and one in it for each container.
        let cgroup = self.pods.child(&format!("pod{uid}"))?;
        let place = |container: &str, user| -> Result<Place> {
            Ok(Place {
                netns: netns.clone(),
                cgroup: container_cgroup(&cgroup, uid, container)?,
                user,
                bin: self.control.bin.clone(),
                hosts: Some(c_path(&hosts)?),
                resolver: self.control.resolver.clone(),
            })
        };
        let app = place("app", Some(APP_USER))?;
        let root = Place { user: None, ..app.clone() };
        let mut up = vec![
            "link set lo up".to_owned(),
            format!("addr add {address}/16 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {HOST}"),
        ];
        if let Some(address) = &address_v6 {
            up.push(format!("addr add {address}/64 dev eth0 nodad"));
            up.push(format!("route add default via {HOST_V6}"));
        }
        network::ip(&root, &up)?;
        let mut pod = Pod {
            options: options.clone(),
            address,
            address_v6,
            dir,
            cgroup: cgroup.clone(),
            app,
            root,
            agent: None,
        };
        if let Some(sidecar) = &options.sidecar {
            let agent = PilotAgent::start(self, &pod, sidecar, &place("istio-proxy", None)?)?;
            pod.agent = Some(agent);
        }
        Ok(pod)
    }
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.options.namespace
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its IPv6 address, where the mesh has two stacks.
    pub fn address_v6(&self) -> Option<&str> {
        self.address_v6.as_deref()
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn options(&self) -> &PodOptions {
        &self.options
    }

    /// Its cgroup: its containers are in it, and nothing else.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.dir()
    }

    /// Where its app runs, as uid 1000.
    pub fn app(&self) -> &Place {
        &self.app
    }

    /// Where its app runs, as root.
    pub fn root(&self) -> &Place {
        &self.root
    }

    /// Its pilot-agent, if it has a sidecar.
    pub fn agent(&self) -> Option<&PilotAgent> {
        self.agent.as_ref()
    }

    /// Runs a program of the system as the app, to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<ProcessOutput> {
        let mut command = self.app.command(program)?;
        command.args(args);
        Process::run(command, &[], TIMEOUT)
    }

    /// Plays scripts as the app, all at once.
    pub fn play(&self, scripts: &[Script]) -> Result<Vec<Transcript>> {
        play(&self.app, scripts)
    }

    /// Starts a squid on a port of this pod.
    pub fn squid(&self, port: u16, policy: &SquidPolicy) -> Result<Squid> {
        self.squid_at(SocketAddr::new(self.address.parse()?, port), policy)
    }

    /// Starts a squid on one of this pod's addresses.
    pub fn squid_at(&self, listen: SocketAddr, policy: &SquidPolicy) -> Result<Squid> {
        let family = if listen.is_ipv6() { "-v6" } else { "" };
        let dir = self.dir.join(format!("squid-{}{family}", listen.port()));
        make_dir(&dir)?;
        Squid::start_in(&self.root, dir, listen, policy)
    }

    /// A page of its Envoy's admin port.
    pub fn admin(&self, path: &str) -> Result<String> {
        self.app.netns().http_get(&format!("http://127.0.0.1:15000/{path}"))
    }

    /// What its Envoy is configured with.
    pub fn config_dump(&self) -> Result<String> {
        self.admin("config_dump?include_eds")
    }
}

fn object(options: &PodOptions) -> Value {
    let mut labels = json!({"app": options.name});
    let mut annotations = json!({});
    let mut containers = vec![json!({"name": "app", "image": "none"})];
    if options.sidecar.is_some() {
        // What the injection would have written: istiod takes a pod with them for one that speaks mutual TLS.
        labels["security.istio.io/tlsMode"] = json!("istio");
        annotations["sidecar.istio.io/status"] = json!("{}");
        containers.push(json!({"name": "istio-proxy", "image": "none"}));
    }
    for (into, from) in [(&mut labels, &options.labels), (&mut annotations, &options.annotations)] {
        for (key, value) in from {
            into[key] = json!(value);
        }
    }
    json!({"metadata": {"name": options.name, "labels": labels, "annotations": annotations},
        "spec": {"nodeName": NODE, "tolerations": [{"operator": "Exists"}], "containers": containers}})
}

fn status(options: &PodOptions, address: &str, address_v6: Option<&str>) -> Value {
    let ips: Vec<Value> =
        [Some(address), address_v6].into_iter().flatten().map(|ip| json!({"ip": ip})).collect();
    let names = ["app", "istio-proxy"].iter().take(1 + usize::from(options.sidecar.is_some()));
    let started = "2026-01-01T00:00:00Z";
    let containers: Vec<Value> = names
        .map(|name| {
            json!({"name": name, "ready": true, "started": true, "image": "none", "imageID": "none", "restartCount": 0,
                "state": {"running": {"startedAt": started}}})
        })
        .collect();
    let conditions = ["Ready", "ContainersReady", "Initialized", "PodScheduled"];
    json!({"status": {"phase": "Running", "podIP": address, "podIPs": ips, "hostIP": HOST,
        "conditions": conditions.map(|kind| json!({"type": kind, "status": "True"})), "containerStatuses": containers}})
}

/// A cgroup with the name that a container's has: 64 hexadecimal digits.
fn container_cgroup(pod: &TestCgroup, uid: &str, container: &str) -> Result<TestCgroup> {
    pod.child(&hex(&Sha256::digest(format!("{uid}/{container}"))))
}
