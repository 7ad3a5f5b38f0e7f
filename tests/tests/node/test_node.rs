//! A node: containerd, the proxies that its pods dial, pods with a real sidecar each, and the agent as a pod.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{
    Capability, ContainerConfig, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext,
    Mount, NamespaceMode, NamespaceOption,
};
use lab::{Behavior, Envoy, Lab, Netns, PROXY, ScriptedProxy, Squid, SquidPolicy, TARGET, Target};
use serde_json::Value;

use crate::containerd::{Containerd, ContainerdRelease, HOST, SYSTEM};
use crate::cri::{Cri, PodSandbox, PodSpec};
use crate::manifest::DaemonSet;

pub const TIMEOUT: Duration = Duration::from_secs(30);
const NAME: &str = "www.example.com";
/// A proxy that reads and never answers.
pub const SILENT: &str = "10.0.0.2:3128";

/// The fields drop in this order: the lab with all of its processes last.
pub struct TestNode {
    pub cri: Cri,
    pub containerd: Containerd,
    pub agent_image: String,
    _silent: ScriptedProxy,
    _squid: Squid,
    _target: Target,
    pub lab: Lab,
}

/// A pod with an app and a sidecar.
pub struct MeshedPod {
    pub pod: PodSandbox,
    pub app: String,
}

/// A running agent.
pub struct AgentPod {
    pub pod: PodSandbox,
    pub container: String,
    pub pid: u32,
    name: &'static str,
}

impl TestNode {
    pub fn build(release: ContainerdRelease) -> Result<Self> {
        let lab = Lab::new()?;
        let proxy = SocketAddr::new(PROXY, 3128);
        let hosts = vec![(NAME.to_owned(), TARGET.to_string())];
        let squid = Squid::start(&lab, proxy, &SquidPolicy { hosts, denied: Vec::new(), credentials: None })?;
        let target = Target::start(&lab, SocketAddr::new(TARGET, 443), NAME)?;
        let silent = ScriptedProxy::start(&lab, SILENT.parse()?, Behavior::Hang)?;
        let containerd = Containerd::start(&lab, release)?;
        let image = image()?;
        containerd.import(&lab, &[&image])?;
        let agent_image = format!("ghcr.io/egress-tracer/egress-tracer:{}", env!("CARGO_PKG_VERSION"));
        fs::create_dir(pods(&lab))?;
        let cri = connect(&lab, &containerd)?;
        Ok(Self { cri, containerd, agent_image, _silent: silent, _squid: squid, _target: target, lab })
    }

    /// Starts containerd again.
    pub fn start_containerd(&mut self) -> Result<()> {
        self.containerd.start_again(&self.lab)?;
        self.cri = connect(&self.lab, &self.containerd)?;
        Ok(())
    }

    /// Starts a pod with istio-init's rules, a sidecar with the configuration in `sidecar`, and an app that runs
    /// `command`, or sleeps where that is empty.
    pub fn meshed(&mut self, spec: &PodSpec, sidecar: &Path, command: &[&str]) -> Result<MeshedPod> {
        let pod = self.cri.run_pod(spec)?;
        self.lab.redirect(&Netns::of_process(pod.pid)?)?;
        let dir = self.lab.make_dir(&format!("envoy-{}", spec.name))?;
        Envoy::configure(sidecar, &dir)?;
        let dir = dir.display().to_string();
        let envoy = lab::cached_envoy(lab::ENVOY_VERSION).display().to_string();
        let arguments =
            ["/envoy", "-c", &format!("{dir}/bootstrap.yaml"), "--concurrency", "1", "-l", "warning"]
                .map(str::to_owned);
        let mut config = self.container(1337, arguments.to_vec());
        config
            .args
            .extend(["--disable-hot-restart", "--component-log-level", "config:info"].map(str::to_owned));
        config.mounts.push(mount(&envoy, "/envoy"));
        config.mounts.push(mount(&dir, &dir));
        self.cri.start(&pod, "istio-proxy", HOST, config)?;
        let inside = Netns::of_process(pod.pid)?;
        self.wait_for("live Envoy", |_| {
            let ready = inside.http_get("http://127.0.0.1:15000/ready");
            Ok(ready.is_ok_and(|state| state.contains("LIVE")).then_some(()))
        })
        .with_context(|| format!("Envoy said {:?}", self.cri.log(spec.name, "istio-proxy")))?;
        let command = if command.is_empty() { &["sleep", "infinity"][..] } else { command };
        let config = self.container(1000, command.iter().map(|word| (*word).to_owned()).collect());
        let app = self.cri.start(&pod, "app", HOST, config)?;
        Ok(MeshedPod { pod, app })
    }

    /// A container with the machine's programs.
    pub fn container(&self, user: i64, command: Vec<String>) -> ContainerConfig {
        let lab = self.lab.dir().join("shared").display().to_string();
        fs::create_dir_all(&lab).expect("a directory");
        fs::set_permissions(&lab, Permissions::from_mode(0o777)).expect("its mode");
        ContainerConfig {
            command,
            envs: vec![KeyValue { key: "PATH".to_owned(), value: SYSTEM.to_owned() }],
            mounts: vec![mount("/usr", "/usr"), mount("/etc", "/etc"), mount(&lab, "/shared")],
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    capabilities: Some(Capability {
                        drop_capabilities: vec!["ALL".to_owned()],
                        ..Default::default()
                    }),
                    run_as_user: Some(Int64Value { value: user }),
                    run_as_group: Some(Int64Value { value: user }),
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Starts the agent from the image with the `DaemonSet`'s settings, scoped to the pods of this lab. Returns when it
    /// is ready.
    pub fn agent(&mut self, name: &'static str, more: &[&str]) -> Result<AgentPod> {
        let daemon_set = DaemonSet::read()?;
        let spec = PodSpec {
            namespace: "egress-tracer",
            name,
            namespaces: daemon_set.namespaces(),
            ..PodSpec::default()
        };
        let pod = self.cri.run_pod(&spec)?;
        // The node mounts the hierarchy at its usual path.
        let pods = pods(&self.lab);
        let scope = Path::new("/sys/fs/cgroup").join(pods.strip_prefix(lab::TestCgroup::top()?.dir())?);
        let scope = scope.display().to_string();
        let args: Vec<&str> =
            ["--cgroup", &scope, "--metrics-label", "pod"].iter().chain(more).copied().collect();
        let scratch = self.lab.make_dir(&format!("scratch-{name}"))?;
        let config = daemon_set.container(&args, &scratch)?;
        let container = self.cri.start(&pod, "agent", &self.agent_image.clone(), config)?;
        let pid = self.cri.pid(&container).with_context(|| format!("{:?}", self.cri.log(name, "agent")))?;
        let agent = AgentPod { pod, container, pid, name };
        self.wait_for("the agent's readiness", |node| Ok(node.ask(&agent, 9476, "/readyz").ok()))
            .with_context(|| format!("the agent said {:?}", self.cri.log(name, "agent")))?;
        Ok(agent)
    }

    /// Sends a CONNECT through the proxy with curl.
    pub fn curl(&mut self, app: &str) -> Result<()> {
        let url = format!("https://{NAME}/page.html");
        self.cri.exec(
            app,
            &["curl", "-sS", "-k", "-m", "20", "-x", "http://10.0.0.1:3128", &url],
            TIMEOUT,
        )?;
        Ok(())
    }

    /// A page of a port of the agent, fetched from the outside namespace.
    pub fn ask(&self, agent: &AgentPod, port: u16, path: &str) -> Result<String> {
        self.lab.outside().netns().http_get(&format!("http://{}:{port}{path}", agent.pod.ip))
    }

    pub fn metrics(&self, agent: &AgentPod) -> Result<String> {
        self.ask(agent, 9475, "/metrics")
    }

    /// The sum of a metric's series that have all of these labels.
    pub fn count(&self, agent: &AgentPod, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let metrics = self.metrics(agent)?;
        let is_it = |line: &&str| {
            line.starts_with(name)
                && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        };
        Ok(metrics
            .lines()
            .filter(is_it)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Waits until the agent has kept `count` reports that are `wanted`, and returns all of those.
    pub fn reports(
        &mut self,
        agent: &AgentPod,
        count: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Vec<Value>> {
        let container = agent.container.clone();
        let mut said = String::new();
        self.wait_for("reports", |node| {
            let command = ["/egress-tracer", "observe", "-o", "json", "--last", "1000"];
            said = node.cri.exec_checked(&container, &command, TIMEOUT)?;
            let all: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let found: Vec<Value> = all.into_iter().filter(|report| wanted(report)).collect();
            Ok((found.len() >= count).then_some(found))
        })
        .with_context(|| format!("it reported {said}; its log: {:?}", self.cri.log(agent.name, "agent")))
    }

    /// Calls `ask` every 100 ms until it has an answer. For states outside this process, which send it no event.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(answer) = ask(self)? {
                return Ok(answer);
            }
            ensure!(Instant::now() < end, "no {what} within {TIMEOUT:?}");
            lab::pause(Duration::from_millis(100));
        }
    }
}

/// The cgroup of all pods of a lab. The agent is scoped to it.
pub fn pods(lab: &Lab) -> PathBuf {
    lab.pod_cgroup().with_file_name("pods")
}

fn connect(lab: &Lab, containerd: &Containerd) -> Result<Cri> {
    let parent = Path::new("/").join(pods(lab).strip_prefix(lab::TestCgroup::top()?.dir())?);
    Cri::connect(&containerd.socket(), &parent, containerd.logs())
}

fn mount(host: &str, container: &str) -> Mount {
    Mount {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        readonly: container != "/shared",
        ..Default::default()
    }
}

/// The archive that `cargo xtask image` makes.
fn image() -> Result<PathBuf> {
    let found = match std::env::var_os("EGRESS_TRACER_IMAGE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image/egress-tracer.oci.tar"),
    };
    ensure!(found.exists(), "there is no image at {}: `cargo xtask image` makes it", found.display());
    Ok(found)
}
