//! One lab: a pod and an outside with their cgroup, their directory and the janitor that takes them down. Labs share
//! nothing, so any number can run at once. It starts nothing that speaks: that is for Envoy, Squid and the others.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::cgroup::Cgroup;
use crate::janitor::Janitor;
use crate::netns::Netns;
use crate::network;
use crate::place::Place;

/// A pod, an outside, and a place for the tools that look at them.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    pod: Cgroup,
    app: Place,
    sidecar: Place,
    init: Place,
    pod_root: Place,
    stranger: Place,
    outside: Place,
    tools: Place,
    janitor: Arc<Mutex<Janitor>>,
}

impl Lab {
    /// Makes everything; needs root. What it made is gone when it is dropped, and also when this process is killed.
    pub fn new() -> Result<Self> {
        ensure!(
            is_root(),
            "the lab makes network namespaces and cgroups, which needs root: run it again with sudo"
        );
        let name = unique_name()?;
        let (top, dir) = (Cgroup::top()?, env::temp_dir().join(&name));
        let janitor = Janitor::hire(&top.dir().join(&name), &dir)?;
        make_dir(&dir)?;
        let cgroup = top.child(&name)?;

        // As the kubelet does it: a cgroup for the pod, and one in it for each container.
        let pod = cgroup.child("pod")?;
        let bin = dir.join("bin");
        make_dir(&bin)?;
        let netns = Netns::new()?;
        let place =
            |netns: &Netns, cgroup, user| Place { netns: netns.clone(), cgroup, user, bin: bin.clone() };
        let tools_group = cgroup.child("tools")?;
        let outside = Netns::new()?;
        let lab = Self {
            app: place(&netns, pod.child("app")?, Some(network::APP_USER)),
            sidecar: place(&netns, pod.child("istio-proxy")?, Some(network::SIDECAR_USER)),
            init: place(&netns, pod.child("istio-init")?, None),
            pod_root: place(&netns, tools_group.clone(), None),
            stranger: place(&outside, pod.child("stranger")?, Some(network::APP_USER)),
            outside: place(&outside, cgroup.child("outside")?, None),
            tools: place(&Netns::new()?, tools_group, None),
            pod,
            dir,
            janitor: Arc::new(Mutex::new(janitor)),
        };
        network::connect(&lab.pod_root, &lab.outside)?;
        network::loopback(&lab.tools)?;
        Ok(lab)
    }

    /// The lab's directory, which every user can read.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new directory below it, which every user can read.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        make_dir(&dir)?;
        Ok(dir)
    }

    /// The pod's cgroup, which the tracer is scoped to: the app's, the sidecar's and the stranger's are in it, nothing else.
    pub fn pod_cgroup(&self) -> &Path {
        self.pod.dir()
    }

    /// Where the app runs: in the pod, as uid 1000.
    pub fn app(&self) -> &Place {
        &self.app
    }

    /// Where the sidecar runs: in the pod, as uid 1337.
    pub fn sidecar(&self) -> &Place {
        &self.sidecar
    }

    /// Where the pod is set up: in the pod and its cgroup, as root.
    pub fn init(&self) -> &Place {
        &self.init
    }

    /// An app of another pod, one without a sidecar: in the outside namespace, as uid 1000. The tracer sees it all the same.
    pub fn stranger(&self) -> &Place {
        &self.stranger
    }

    /// Where proxies and targets run.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// Where the tracer runs: a namespace with a loopback of its own, so that fixed ports never clash; not in the pod's
    /// cgroup.
    pub fn tools(&self) -> &Place {
        &self.tools
    }

    /// In the pod's namespace as root, but not in its cgroup: for looking at the pod unseen.
    pub fn pod_root(&self) -> &Place {
        &self.pod_root
    }

    /// Redirects what reaches the pod from outside to the sidecar's port 15006.
    pub fn redirect_inbound(&self) -> Result<()> {
        network::redirect_inbound(&self.pod_root)
    }

    /// Redirects what a pod that a container runtime made sends, as istio-init does.
    pub fn redirect(&self, pod: &Netns) -> Result<()> {
        network::redirect(&Place { netns: pod.clone(), ..self.tools.clone() })
    }

    /// The janitor, for a signal handler that must take the lab down from another thread.
    pub fn janitor(&self) -> Arc<Mutex<Janitor>> {
        Arc::clone(&self.janitor)
    }

    /// Takes everything down now and says whether that went well. Dropping does the same, and can only print.
    pub fn close(self) -> Result<()> {
        lock(&self.janitor).dismiss()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The janitor may be shared with a signal handler: it is dismissed here, not when the last share is dropped.
        if let Err(error) = lock(&self.janitor).dismiss() {
            eprintln!("{error:#}");
        }
    }
}

/// Whether this process may make a lab at all.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A name that no other lab of this machine has or had: process ids come again, but not at the same time.
fn unique_name() -> Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    Ok(format!("egress-lab-{}-{now}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A directory that must be new, and that every user can enter whatever the umask is.
fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(fs::set_permissions(dir, Permissions::from_mode(0o755))?)
}

fn lock(janitor: &Mutex<Janitor>) -> MutexGuard<'_, Janitor> {
    janitor.lock().unwrap_or_else(PoisonError::into_inner)
}
