//! A real Istio on a real Kubernetes API, on one machine and without images: etcd, API server, controllers and istiod in one
//! network namespace, and pods that are network namespaces with the real pilot-agent, its Envoy and istio-iptables' rules.
//! It knows objects and processes, and nothing of verdicts.

mod agent;
mod api;
mod certificates;
mod pod;
mod programs;
mod push;
mod seed;
mod wire;

use std::env;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::janitor::Janitor;
use crate::lab::{is_root, make_dir, unique_name};
use crate::netns::Netns;
use crate::network;
use crate::place::Place;
use crate::process::{Process, ProcessOutput};
use api::Api;
use programs::program;

pub use pod::{Pod, PodOptions, Sidecar};
pub use programs::{ISTIO_FILES, MESH_BUILD_FLAGS, MESH_PROGRAMS, cached_mesh, mesh_module};
pub use seed::Seed;
pub use wire::{Flow, Wire};

/// A page on the pods' network that every pod can reach: istiod's own readiness.
pub const MESH_PAGE: &str = "http://10.233.0.1:8080/ready";

/// The control plane's address on the pods' network.
const HOST: &str = "10.233.0.1";
/// The name under which pods and the API server know istiod; its certificate has it.
const ISTIOD: &str = "istiod.istio-system.svc";
/// How long any part may take to start, on a machine with other work.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Features of Istio's own build of Envoy that a stock Envoy lacks: the ALPN filter and the two metadata exchange filters.
/// `istio.stats` stays away as long as no metrics provider is configured.
const STOCK_ENVOY: [(&str, &str); 2] =
    [("PILOT_ENABLE_ALPN_FILTER", "false"), ("PILOT_ENABLE_METADATA_EXCHANGE", "false")];

/// A control plane and its pods. Any number of them can run at once: they share neither addresses nor names.
#[derive(Debug)]
pub struct Mesh {
    dir: PathBuf,
    options: MeshOptions,
    control: Place,
    tools: Cgroup,
    pods: Cgroup,
    api: Api,
    istiod: Mutex<Option<Process>>,
    /// They end in this order, which spares their logs some errors.
    kubernetes: Vec<Process>,
    address: AtomicU64,
    marker: AtomicU64,
    janitor: Arc<Mutex<Janitor>>,
}

/// How a mesh differs from the default one.
#[derive(Debug, Clone, Default)]
pub struct MeshOptions {
    /// Fields of Istio's `MeshConfig`.
    pub mesh_config: Value,
    /// Environment of istiod.
    pub istiod_env: Vec<(String, String)>,
}

impl Mesh {
    /// Starts a mesh without pods; needs root. All of it is gone when it is dropped, and also when this process is killed.
    pub fn start() -> Result<Self> {
        Self::start_with(MeshOptions::default())
    }

    /// Starts a mesh with these options.
    pub fn start_with(options: MeshOptions) -> Result<Self> {
        ensure!(
            is_root(),
            "the mesh makes network namespaces and cgroups, which needs root: run it again with sudo"
        );
        program("kubectl")?; // before anything is made
        let name = unique_name()?;
        let (top, dir) = (Cgroup::top()?, env::temp_dir().join(&name));
        let janitor = Janitor::spawn(&top.dir().join(&name), &dir)?;
        make_dir(&dir)?;
        let cgroup = top.child(&name)?;
        let bin = dir.join("bin");
        make_dir(&bin)?;
        let hosts = dir.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{HOST} {ISTIOD}\n"))?;
        let place = |netns, cgroup, hosts| Place { netns, cgroup, user: None, bin: bin.clone(), hosts };
        let control = place(Netns::new()?, cgroup.child("control-plane")?, Some(c_path(&hosts)?));
        let tools = cgroup.child("tools")?;
        let batch = [
            "link set lo up",
            "link add br0 type bridge",
            &format!("addr add {HOST}/16 dev br0"),
            "link set br0 up",
        ];
        network::ip(&control, &batch.map(str::to_owned))?;
        let mut mesh = Self {
            api: Api::new(control.netns().clone()),
            pods: cgroup.child("kubepods")?,
            dir,
            options,
            control,
            tools,
            istiod: Mutex::new(None),
            kubernetes: Vec::new(),
            address: AtomicU64::new(10),
            marker: AtomicU64::new(0),
            janitor: Arc::new(Mutex::new(janitor)),
        };
        mesh.start_kubernetes()?;
        mesh.start_istiod()?;
        Ok(mesh)
    }

    fn start_kubernetes(&mut self) -> Result<()> {
        certificates::write(&self.dir, HOST)?;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://{HOST}:6443"), "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "admin", "user": {"client-certificate": file("admin.crt"), "client-key": file("admin.key")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}]});
        fs::write(self.kubeconfig(), config.to_string())?;

        let mut etcd = self.control_command("etcd")?;
        etcd.args(["--data-dir", &file("etcd"), "--unsafe-no-fsync", "--log-level=error"]);
        etcd.args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
        ]);
        etcd.arg("--listen-peer-urls=http://127.0.0.1:2380");
        let mut server = self.control_command("kube-apiserver")?;
        server.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--secure-port=6443",
            "--authorization-mode=Node,RBAC",
        ]);
        server.args([format!("--bind-address={HOST}"), format!("--advertise-address={HOST}")]);
        server.args([
            format!("--tls-cert-file={}", file("api.crt")),
            format!("--tls-private-key-file={}", file("api.key")),
        ]);
        server.args([
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("sa.pub")),
        ]);
        server.arg(format!("--service-account-signing-key-file={}", file("sa.key")));
        server.args([
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
        ]);
        server.args(["--api-audiences=istio-ca,https://kubernetes.default.svc", "--allow-privileged=true"]);
        // kubectl as a proxy: the lab's own requests are plain HTTP, without TLS and its libraries.
        let mut proxy = self.control_command("kubectl")?;
        proxy.args(["proxy", &format!("--port={}", api::PORT)]);
        let etcd = Process::spawn(etcd, &[])?;
        let server = Process::spawn(server, &[])?;
        let proxy = Process::spawn(proxy, &[])?;
        proxy.wait_line("open port", proxy.stdout(), TIMEOUT, |line| {
            line.contains("Starting to serve").then_some(())
        })?;
        self.wait_url(&server, "kube-apiserver", &format!("http://127.0.0.1:{}/readyz", api::PORT))?;

        let mut controllers = self.control_command("kube-controller-manager")?;
        controllers.arg(format!("--service-account-private-key-file={}", file("sa.key")));
        controllers.arg(format!("--root-ca-file={}", file("ca.crt")));
        // What the objects of a test need; the others cost processor time.
        controllers
            .arg("--controllers=endpointslice-controller,namespace-controller,serviceaccount-controller");
        controllers.args(["--use-service-account-credentials", "--leader-elect=false"]);
        controllers.arg(format!("--kubeconfig={}", self.kubeconfig().display()));
        let controllers = Process::spawn(controllers, &[])?;
        self.kubernetes = vec![controllers, proxy, server, etcd];

        let crds = programs::crds()?.display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &crds], "")?;
        self.api.create("/api/v1/namespaces", &json!({"metadata": {"name": "istio-system"}}))?;
        self.api.create(
            "/api/v1/nodes",
            &json!({"metadata": {"name": pod::NODE, "labels": {"kubernetes.io/os": "linux"}}}),
        )?;
        // The webhook's name and label are those by which istiod finds it; it fills in its own authority.
        let rules = json!([{"apiGroups": ["networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io"],
            "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"]}]);
        let webhook = json!({"metadata": {"name": "istio-validator", "labels": {"istio.io/rev": "default", "app": "istiod"}},
            "webhooks": [{"name": "validation.istio.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore", "clientConfig": {"url": format!("https://{ISTIOD}:15017/validate")}, "rules": rules}]});
        self.api.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &webhook)?;
        Ok(())
    }

    /// istiod cannot run without Kubernetes at this version, and needs no webhook to serve sidecars.
    fn start_istiod(&self) -> Result<()> {
        let mut config = json!({"defaultConfig": {"discoveryAddress": format!("{ISTIOD}:15012")}, "enableTracing": false,
            "trustDomain": "cluster.local"});
        merge(&mut config, &self.options.mesh_config);
        let file = self.dir.join("mesh.json");
        fs::write(&file, config.to_string())?;
        let mut command = self.control_command("pilot-discovery")?;
        command.args(["discovery", &format!("--kubeconfig={}", self.kubeconfig().display())]);
        command.arg(format!("--meshConfig={}", file.display()));
        command.args([format!("--httpAddr={HOST}:8080"), format!("--httpsAddr={HOST}:15017")]);
        command.args([format!("--grpcAddr={HOST}:15010"), format!("--secureGRPCAddr={HOST}:15012")]);
        command.args([format!("--monitoringAddr={HOST}:15014"), "--ctrlz_address=127.0.0.1".to_owned()]);
        command.envs([
            ("POD_NAMESPACE", "istio-system"),
            ("POD_NAME", "istiod-0"),
            ("CLUSTER_ID", "Kubernetes"),
        ]);
        command.envs([
            ("PILOT_CERT_PROVIDER", "istiod"),
            ("JWT_POLICY", "third-party-jwt"),
            ("REVISION", "default"),
        ]);
        command.envs([("ISTIOD_CUSTOM_HOST", ISTIOD), ("INJECTION_WEBHOOK_CONFIG_NAME", "")]);
        command.env("VALIDATION_WEBHOOK_CONFIG_NAME", "istio-validator").envs(STOCK_ENVOY);
        command.envs(self.options.istiod_env.iter().map(|(name, value)| (name, value)));
        let istiod = Process::spawn(command, &[])?;
        self.wait_url(&istiod, "istiod", &format!("http://{HOST}:8080/ready"))?;
        *self.istiod.lock().unwrap_or_else(PoisonError::into_inner) = Some(istiod);
        Ok(())
    }

    /// Replaces istiod by one with this `MeshConfig`. The sidecars connect again by themselves, which takes them seconds.
    pub fn restart_istiod(&mut self, mesh_config: Value) -> Result<()> {
        if let Some(istiod) = self.istiod.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            istiod.signal(Signal::TERM)?;
            istiod.finish(TIMEOUT)?;
        }
        self.options.mesh_config = mesh_config;
        self.start_istiod()
    }

    /// Waits until a GET of `url` from the control plane's network answers 200: after each line that `process` logs, and now
    /// and then besides.
    fn wait_url(&self, process: &Process, name: &str, url: &str) -> Result<()> {
        let ready = || Ok(self.api.get_url(url).is_ok().then_some(()));
        push::poll(process.stderr(), TIMEOUT, ready)?
            .with_context(|| format!("{name} was not ready within {TIMEOUT:?}: {}", process.stderr().text()))
    }

    fn control_command(&self, name: &str) -> Result<Command> {
        let mut command = self.control.command_at(&program(name)?)?;
        command.env("KUBECONFIG", self.kubeconfig());
        Ok(command)
    }

    /// Runs kubectl with `input` on its standard input. Anything but success is an error that holds what it said.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.control_command("kubectl")?;
        command.args(args);
        Ok(Process::run_checked(command, input.as_bytes(), TIMEOUT)?.stdout)
    }

    /// Runs istioctl to its end, whatever that is.
    pub fn istioctl(&self, args: &[&str]) -> Result<ProcessOutput> {
        let mut command = self.control_command("istioctl")?;
        command.args(args);
        Process::run(command, &[], TIMEOUT)
    }

    /// `kubectl apply` of YAML or JSON, and the wait until each of `pods` has what istiod made of it.
    pub fn apply(&self, objects: &str, pods: &[&Pod]) -> Result<String> {
        let said = self.kubectl(&["apply", "-f", "-"], objects)?;
        self.wait_push(pods)?;
        Ok(said)
    }

    /// `kubectl delete` of YAML or JSON, and the wait until each of `pods` has what istiod made of it.
    pub fn delete(&self, objects: &str, pods: &[&Pod]) -> Result<String> {
        let said = self.kubectl(&["delete", "--ignore-not-found", "-f", "-"], objects)?;
        self.wait_push(pods)?;
        Ok(said)
    }

    /// Makes a namespace, unless it is there.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.api.ensure("/api/v1/namespaces", &json!({"metadata": {"name": name}}))
    }

    /// Puts objects in the place of others at the API server, without kubectl. What is in both and equal is not touched; what
    /// differs is made anew, because some fields cannot change.
    pub fn replace(&self, before: &[Value], after: &[Value], pods: &[&Pod]) -> Result<()> {
        for object in before.iter().filter(|object| !after.contains(object)) {
            self.api.delete(object)?;
        }
        for object in after {
            self.api.apply(object)?;
        }
        self.wait_push(pods)
    }

    /// The mesh's directory, which every user can read.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kubeconfig of a cluster administrator; its server is on the control plane's network.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The cgroup that holds the pods and nothing else: what the tracer is scoped to.
    pub fn pods_cgroup(&self) -> &Path {
        self.pods.dir()
    }

    /// A process of the control plane, for `nsenter`: the namespace has no name.
    pub fn control_pid(&self) -> Option<u32> {
        self.kubernetes.first().map(Process::pid)
    }

    /// Where the control plane runs, as root.
    pub fn control(&self) -> &Place {
        &self.control
    }

    /// A place for a tracer: a new network, so that fixed ports never clash, and in no pod's cgroup.
    pub fn tools(&self) -> Result<Place> {
        let place = Place { netns: Netns::new()?, cgroup: self.tools.clone(), ..self.control.clone() };
        network::loopback(&place)?;
        Ok(place)
    }

    /// The janitor, for a signal handler that must take the mesh down from another thread.
    pub fn janitor(&self) -> Arc<Mutex<Janitor>> {
        Arc::clone(&self.janitor)
    }

    /// Takes everything down now and says whether that went well. Dropping does the same, and can only print.
    pub fn close(self) -> Result<()> {
        self.janitor.lock().unwrap_or_else(PoisonError::into_inner).clean_up()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Err(error) = self.janitor.lock().unwrap_or_else(PoisonError::into_inner).clean_up() {
            eprintln!("{error:#}");
        }
    }
}

/// A number for something that the mesh makes more than one of.
fn next(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Lays one JSON object over another, key by key.
fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, over) => *into = over.clone(),
    }
}
