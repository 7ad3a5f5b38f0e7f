//! A real Istio on a real Kubernetes API, on one machine and without images: etcd, API server, controllers and istiod in one
//! network namespace, and pods that are network namespaces with the real pilot-agent, its Envoy and istio-iptables' rules.
//! It knows objects and processes, and nothing of verdicts.

mod agent;
mod api;
mod certificates;
mod cluster_ips;
mod control_plane;
mod default_istiod;
mod dns;
mod helm;
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cgroup::TestCgroup;
use crate::janitor::Janitor;
use crate::lab::{is_root, make_dir, unique_name};
use crate::netns::Netns;
use crate::network;
use crate::place::Place;
use crate::process::{Process, ProcessOutput};
use api::Api;
use programs::program;

pub use default_istiod::DEFAULT_ISTIOD;
pub use helm::{CHART_CRDS, cached_helm, helm, helm_module};
pub use pod::{Pod, PodOptions, Sidecar};
pub use programs::{ISTIO_FILES, MESH_BUILD_FLAGS, MESH_PROGRAMS, cached_mesh, mesh_module};
pub use seed::Seed;
pub use wire::{Wire, WireFlow};

/// A page on the pods' network that every pod can reach: istiod's own readiness.
pub const MESH_PAGE: &str = "http://10.233.0.1:8080/ready";

/// The control plane's address on the pods' network.
const HOST: &str = "10.233.0.1";
/// Its IPv6 address, where the mesh has two stacks.
const HOST_V6: &str = "fd00:233::1";
/// The name under which pods and the API server know istiod; its certificate has it.
const ISTIOD: &str = "istiod.istio-system.svc";
/// How long any part may take to start, on a machine with other work.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A control plane and its pods. Any number of them can run at once: they share neither addresses nor names.
#[derive(Debug)]
pub struct Mesh {
    dir: PathBuf,
    options: MeshOptions,
    control: Place,
    tools: TestCgroup,
    pods: TestCgroup,
    api: Api,
    istiod: Mutex<Option<Process>>,
    default_istiod: Mutex<Option<Process>>,
    /// They end in this order, which spares their logs some errors.
    kubernetes: Vec<Process>,
    _name_server: dns::NameServer,
    /// The rules for cluster IPs that are in force.
    cluster_ips: Mutex<String>,
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
    /// Whether pods and Services have IPv6 addresses beside the IPv4 ones.
    pub dual_stack: bool,
    /// Only Kubernetes, without Istio, and with the controller that makes the pods of `DaemonSets`.
    pub without_istio: bool,
    /// An `AdmissionConfiguration` of the API server.
    pub admission: Option<Value>,
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
        let (top, dir) = (TestCgroup::top()?, env::temp_dir().join(&name));
        let janitor = Janitor::spawn(&top.dir().join(&name), &dir)?;
        make_dir(&dir)?;
        let cgroup = top.child(&name)?;
        let bin = dir.join("bin");
        make_dir(&bin)?;
        let hosts = dir.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{HOST} {ISTIOD}\n"))?;
        let control = Place {
            netns: Netns::new()?,
            cgroup: cgroup.child("control-plane")?,
            user: None,
            bin,
            hosts: Some(c_path(&hosts)?),
            resolver: resolver(&dir)?,
        };
        let tools = cgroup.child("tools")?;
        let batch = [
            "link set lo up",
            "link add br0 type bridge",
            &format!("addr add {HOST}/16 dev br0"),
            "link set br0 up",
        ];
        network::ip(&control, &batch.map(str::to_owned))?;
        if options.dual_stack {
            // nodad: without it, an address stays unusable for a second.
            network::ip(&control, &[format!("addr add {HOST_V6}/64 dev br0 nodad")])?;
        }
        let name_server = dns::NameServer::start(control.netns())?;
        let mut mesh = Self {
            api: Api::new(control.netns().clone()),
            pods: cgroup.child("kubepods")?,
            dir,
            options,
            control,
            tools,
            istiod: Mutex::default(),
            default_istiod: Mutex::default(),
            kubernetes: Vec::new(),
            _name_server: name_server,
            cluster_ips: Mutex::default(),
            address: AtomicU64::new(10),
            marker: AtomicU64::new(0),
            janitor: Arc::new(Mutex::new(janitor)),
        };
        mesh.start_cluster_ips()?;
        mesh.start_kubernetes()?;
        if !mesh.options.without_istio {
            mesh.start_istiod()?;
        }
        Ok(mesh)
    }

    /// What the API server has of these collections, such as `/api/v1/services`, without what it adds by itself.
    pub fn list(&self, collections: &[&str]) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for collection in collections {
            all.extend(self.api.list(collection)?);
        }
        Ok(all)
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

    /// Makes or changes one object at the API server, without kubectl and without waiting for istiod.
    pub fn put(&self, object: &Value) -> Result<()> {
        self.api.apply(object).map(drop)
    }

    /// Deletes one object at the API server, if it is there, without kubectl and without waiting for istiod.
    pub fn remove(&self, object: &Value) -> Result<()> {
        self.api.delete(object)
    }

    /// Puts objects in the place of others at the API server, without kubectl. What is in both and equal is not touched; what
    /// differs is made anew, because some fields cannot change.
    pub fn replace(&self, before: &[Value], after: &[Value], pods: &[&Pod]) -> Result<()> {
        before.iter().filter(|object| !after.contains(object)).try_for_each(|object| self.remove(object))?;
        after.iter().try_for_each(|object| self.put(object))?;
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

/// A table of name servers for the pods: the mesh's own. `None` where the machine has no such table that the mesh's could stand
/// in for.
fn resolver(dir: &Path) -> Result<Option<CString>> {
    let file = dir.join("resolv.conf");
    fs::write(&file, format!("nameserver {HOST}\n"))?;
    Path::new("/etc/resolv.conf").exists().then(|| c_path(&file)).transpose()
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
