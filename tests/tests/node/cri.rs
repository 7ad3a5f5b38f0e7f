//! A client of a container runtime, as far as the tests play the kubelet: pods, containers, commands in them. Every
//! call waits for its answer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

/// The specification of a pod.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    pub namespace: &'static str,
    pub name: &'static str,
    pub labels: Vec<(&'static str, &'static str)>,
    pub annotations: Vec<(&'static str, &'static str)>,
    pub namespaces: NamespaceOption,
}

/// A running pod sandbox.
#[derive(Debug, Clone)]
pub struct PodSandbox {
    pub id: String,
    pub ip: String,
    /// The process that holds its network namespace.
    pub pid: u32,
    config: PodSandboxConfig,
}

/// The result of a command in a container.
#[derive(Debug)]
pub struct ExecResult {
    pub code: i32,
    pub stdout: String,
    /// Shown in failure messages.
    #[expect(dead_code, reason = "shown by Debug")]
    stderr: String,
}

/// A client of one runtime.
pub struct Cri {
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
    /// The parent cgroup of pods, as a path in the hierarchy.
    parent: String,
    logs: PathBuf,
}

impl Cri {
    pub fn connect(socket: &Path, parent: &Path, logs: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = socket.to_owned();
        let dial = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            runtime.block_on(Endpoint::from_static("http://localhost").connect_with_connector(dial))?;
        let client = RuntimeServiceClient::new(channel).max_decoding_message_size(16 << 20);
        let mut this = Self { runtime, client, parent: parent.display().to_string(), logs };
        this.wait_until_it_serves()?;
        Ok(this)
    }

    /// containerd accepts connections before its CRI service has recovered its state, and sends no event when it has.
    fn wait_until_it_serves(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match self.runtime.block_on(self.client.status(StatusRequest { verbose: false })) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    return Err(error).context("the runtime does not serve");
                }
                Err(_) => lab::pause(Duration::from_millis(20)),
            }
        }
    }

    /// Runs a pod's sandbox in a cgroup named as by a kubelet with the cgroupfs driver.
    pub fn run_pod(&mut self, spec: &PodSpec) -> Result<PodSandbox> {
        let owned = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let on_node = spec.namespaces.network() == NamespaceMode::Node;
        let uid = format!("uid-{}-{}", spec.namespace, spec.name);
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: spec.name.to_owned(),
                uid: uid.clone(),
                namespace: spec.namespace.to_owned(),
                attempt: 0,
            }),
            // A pod on the node's network has the node's name.
            hostname: if on_node { String::new() } else { spec.name.to_owned() },
            log_directory: self.logs.join(spec.name).display().to_string(),
            labels: owned(&spec.labels),
            annotations: owned(&spec.annotations),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod{uid}", self.parent),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(spec.namespaces.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let ran = self.runtime.block_on(self.client.run_pod_sandbox(request));
        let id = ran.with_context(|| format!("cannot run pod {}", spec.name))?.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let answer = self.runtime.block_on(self.client.pod_sandbox_status(request))?.into_inner();
        let network = answer.status.and_then(|status| status.network).unwrap_or_default();
        let info: Value = serde_json::from_str(answer.info.get("info").context("a verbose status")?)?;
        let pid = info["pid"].as_u64().context("the sandbox has a process")?;
        Ok(PodSandbox { id, ip: network.ip, pid: u32::try_from(pid)?, config })
    }

    /// Creates and starts a container, and returns its id.
    pub fn start(
        &mut self,
        pod: &PodSandbox,
        name: &str,
        image: &str,
        config: ContainerConfig,
    ) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
            log_path: format!("{name}.log"),
            ..config
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let created = self.runtime.block_on(self.client.create_container(request));
        let id =
            created.with_context(|| format!("cannot create container {name}"))?.into_inner().container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        let started = self.runtime.block_on(self.client.start_container(request));
        started.with_context(|| format!("cannot start container {name}"))?;
        Ok(id)
    }

    /// The process id of a container.
    pub fn pid(&mut self, container: &str) -> Result<u32> {
        let request =
            k8s_cri::v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let answer = self.runtime.block_on(self.client.container_status(request))?.into_inner();
        let info: Value = serde_json::from_str(answer.info.get("info").context("a verbose status")?)?;
        Ok(u32::try_from(info["pid"].as_u64().context("the container has a process")?)?)
    }

    /// Runs a command in a container to its end.
    pub fn exec(&mut self, container: &str, command: &[&str], patience: Duration) -> Result<ExecResult> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::try_from(patience.as_secs())?,
        };
        let ran = self.runtime.block_on(self.client.exec_sync(request));
        let ran = ran.with_context(|| format!("cannot run {command:?}"))?.into_inner();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(ExecResult { code: ran.exit_code, stdout: text(ran.stdout), stderr: text(ran.stderr) })
    }

    /// Runs a command in a container to its end, and returns its output. An exit code other than 0 is an error.
    pub fn exec_checked(&mut self, container: &str, command: &[&str], patience: Duration) -> Result<String> {
        let ran = self.exec(container, command, patience)?;
        ensure!(ran.code == 0, "{command:?}: {ran:?}");
        Ok(ran.stdout)
    }

    /// Stops and removes a pod with its containers.
    pub fn remove_pod(&mut self, pod: &PodSandbox) -> Result<()> {
        let id = pod.id.clone();
        self.runtime
            .block_on(self.client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }))?;
        self.runtime
            .block_on(self.client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }))?;
        Ok(())
    }

    /// The output of a container, without the runtime's prefix on each line.
    pub fn log(&self, pod: &str, container: &str) -> Result<Vec<String>> {
        let path = self.logs.join(pod).join(format!("{container}.log"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("no log at {}", path.display()))?;
        Ok(text.lines().filter_map(|line| line.splitn(4, ' ').nth(3).map(str::to_owned)).collect())
    }
}
