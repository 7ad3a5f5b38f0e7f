//! A lab: a pod and an outside with their cgroup, their directory, and the janitor that removes them. Labs share
//! nothing, so any number can run at once.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::cgroup::TestCgroup;
use crate::janitor::Janitor;
use crate::netns::Netns;
use crate::network;
use crate::place::Place;

/// A pod, an outside, and a place for the tools that look at them.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    pod: TestCgroup,
    app: Place,
    sidecar: Place,
    init: Place,
    pod_root: Place,
    other_pod: Place,
    outside: Place,
    tools: Place,
    janitor: Arc<Mutex<Janitor>>,
}

impl Lab {
    /// Makes the lab; needs root. Dropping it removes everything, and so does the death of this process.
    pub fn new() -> Result<Self> {
        ensure!(
            is_root(),
            "the lab makes network namespaces and cgroups, which needs root: run it again with sudo"
        );
        let name = unique_name()?;
        let (top, dir) = (TestCgroup::top()?, env::temp_dir().join(&name));
        let janitor = Janitor::spawn(&top.dir().join(&name), &dir)?;
        make_dir(&dir)?;
        let cgroup = top.child(&name)?;

        // Like a kubelet: one cgroup for the pod, and one below it for each container.
        let pod = cgroup.child("pod")?;
        let bin = dir.join("bin");
        make_dir(&bin)?;
        let netns = Netns::new()?;
        let place = |netns: &Netns, cgroup, user| Place {
            netns: netns.clone(),
            cgroup,
            user,
            bin: bin.clone(),
            hosts: None,
            resolver: None,
        };
        let tools_group = cgroup.child("tools")?;
        let outside = Netns::new()?;
        let lab = Self {
            app: place(&netns, pod.child("app")?, Some(network::APP_USER)),
            sidecar: place(&netns, pod.child("istio-proxy")?, Some(network::SIDECAR_USER)),
            init: place(&netns, pod.child("istio-init")?, None),
            pod_root: place(&netns, tools_group.clone(), None),
            other_pod: place(&outside, pod.child("other_pod")?, Some(network::APP_USER)),
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

    /// The lab's directory, readable by every user.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a directory below the lab's, readable by every user.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        make_dir(&dir)?;
        Ok(dir)
    }

    /// The pod's cgroup, to which the tracer is scoped. The app, the sidecar and the other pod are in it, nothing else.
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

    /// An app of a pod without a sidecar: in the outside namespace, as uid 1000, within the tracer's scope.
    pub fn other_pod(&self) -> &Place {
        &self.other_pod
    }

    /// Where proxies and targets run.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// Where the tracer runs: in a namespace of its own, so that fixed ports never clash, and outside the pod's cgroup.
    pub fn tools(&self) -> &Place {
        &self.tools
    }

    /// In the pod's namespace as root, but outside its cgroup: for tools that look at the pod.
    pub fn pod_root(&self) -> &Place {
        &self.pod_root
    }

    /// Redirects connections from outside to the sidecar's port 15006.
    pub fn redirect_inbound(&self) -> Result<()> {
        network::redirect_inbound(&self.pod_root)
    }

    /// Redirects what the app dials to this port, and nothing that `user` dials, whatever istio-init's rules say.
    pub fn redirect_to(&self, user: u32, port: u16) -> Result<()> {
        network::redirect_to(&self.pod_root, user, port)
    }

    /// Sets istio-init's outbound redirect in the namespace of a pod that a container runtime made.
    pub fn redirect(&self, pod: &Netns) -> Result<()> {
        network::redirect(&Place { netns: pod.clone(), ..self.tools.clone() })
    }

    /// The janitor, so that a signal handler on another thread can take the lab down.
    pub fn janitor(&self) -> Arc<Mutex<Janitor>> {
        Arc::clone(&self.janitor)
    }

    /// Takes everything down now and returns an error if that failed. Dropping can only print it.
    pub fn close(self) -> Result<()> {
        lock(&self.janitor).clean_up()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A signal handler may share the janitor, so it cleans up here and not when the last share is dropped.
        if let Err(error) = lock(&self.janitor).clean_up() {
            eprintln!("{error:#}");
        }
    }
}

/// Whether this process may make a lab.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A name that no other lab of this machine has or had. Process ids are reused, so the time is part of it.
pub(crate) fn unique_name() -> Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    Ok(format!("egress-lab-{}-{now}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Makes a directory that must be new, and that every user can enter whatever the umask is.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(fs::set_permissions(dir, Permissions::from_mode(0o755))?)
}

fn lock(janitor: &Mutex<Janitor>) -> MutexGuard<'_, Janitor> {
    janitor.lock().unwrap_or_else(PoisonError::into_inner)
}
