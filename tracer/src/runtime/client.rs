//! The runtime's own words (CRI v1), turned into ours. It keeps nothing but the connection.
//! <https://github.com/kubernetes/cri-api/blob/v0.34.0/pkg/apis/runtime/v1/api.proto>

use std::collections::HashMap;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self as cri, ContainerState, GetEventsRequest, ListContainersRequest, ListPodSandboxRequest,
    NamespaceMode, PodSandboxState, PodSandboxStatusRequest, runtime_service_client::RuntimeServiceClient,
};
use tokio::{
    net::UnixStream,
    sync::mpsc::{Receiver, channel},
    task::JoinHandle,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint as Target, Uri},
};

use super::Endpoint;

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) annotations: HashMap<String, String>,
    /// `None`: known from an earlier list.
    pub(super) host_network: Option<bool>,
}

/// A container that is there, running or about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) name: String,
}

/// Everything that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) sandboxes: Vec<Sandbox>,
    pub(super) containers: Vec<Listed>,
}

/// As the kubelet has it: a full node's list is larger than gRPC's usual 4 MiB.
const MESSAGE: usize = 16 << 20;

pub(super) struct Client(RuntimeServiceClient<Channel>);

impl Client {
    /// Connects; nothing is asked yet.
    pub(super) async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let path = endpoint.0.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is required, and means nothing.
        let target = Target::from_static("http://localhost");
        let channel = target.connect_with_connector(dial).await.map_err(innermost);
        Ok(Self(
            RuntimeServiceClient::new(channel.context("cannot connect")?).max_decoding_message_size(MESSAGE),
        ))
    }

    /// Lists all that runs. Of sandboxes that are not `known`, it asks for more.
    pub(super) async fn list(&mut self, known: impl Fn(&str) -> bool) -> anyhow::Result<List> {
        let Self(client) = self;
        let sandboxes = client.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await;
        let sandboxes = sandboxes.map_err(said).context("it does not list pods")?.into_inner().items;
        let containers = client.list_containers(ListContainersRequest { filter: None }).await;
        let containers =
            containers.map_err(said).context("it does not list containers")?.into_inner().containers;
        let mut list = List::default();
        for sandbox in sandboxes.into_iter().filter(|one| one.state() == PodSandboxState::SandboxReady) {
            let mut sandbox = of_sandbox(sandbox);
            if !known(&sandbox.id) {
                sandbox.host_network = Some(is_on_host_network(client, &sandbox.id).await);
            }
            list.sandboxes.push(sandbox);
        }
        list.containers.extend(containers.into_iter().filter(is_there).map(of_container));
        Ok(list)
    }

    /// Listens to what changes, from now on. `is_another_try`: that it did not work was said before.
    pub(super) fn events(&self, is_another_try: bool) -> Events {
        let mut client = self.0.clone();
        let (to, from) = channel(1);
        let task = async move {
            // Some runtimes answer only when there is something to tell: no deadline.
            let answer = client.get_container_events(GetEventsRequest {}).await;
            let mut stream = answer.map_err(Silence::of)?.into_inner();
            let mut is_first = true;
            loop {
                tokio::select! {
                    () = to.closed() => return Ok(()),
                    event = stream.message() => {
                        let Some(_) = event.map_err(Silence::of)? else { return Err(Silence::Broke(None)) };
                        if std::mem::take(&mut is_first) {
                            log::info!("the container runtime tells of changes");
                        }
                        // A full queue says as much as this event would: look again.
                        let _ = to.try_send(());
                    }
                }
            }
        };
        Events { from, task: Some(tokio::task::spawn_local(task)), silence: None, is_another_try }
    }
}

/// Why there are no events.
#[derive(Debug)]
enum Silence {
    /// The runtime knows of no such thing.
    None,
    /// They ended; with what the runtime said.
    Broke(Option<anyhow::Error>),
}

impl Silence {
    fn of(status: tonic::Status) -> Self {
        if status.code() == Code::Unimplemented { Self::None } else { Self::Broke(Some(said(status))) }
    }
}

/// That something changed.
pub(super) struct Events {
    from: Receiver<()>,
    task: Option<JoinHandle<Result<(), Silence>>>,
    silence: Option<Silence>,
    is_another_try: bool,
}

impl Events {
    pub(super) fn is_open(&self) -> bool {
        self.task.is_some()
    }

    /// There were some, or may be some again.
    pub(super) fn broke_off(&self) -> bool {
        matches!(self.silence, Some(Silence::Broke(_)))
    }

    /// The next one; `None` once: there are none any more.
    pub(super) async fn next(&mut self) -> Option<()> {
        if let Some(event) = self.from.recv().await {
            return Some(event);
        }
        // The caller may drop this future while it waits, so nothing is taken before the task has ended.
        let ended = self.task.as_mut()?.await.unwrap_or(Ok(()));
        self.task = None;
        let silence = ended.err().unwrap_or(Silence::Broke(None));
        let level = if self.is_another_try { log::Level::Debug } else { log::Level::Info };
        match &silence {
            Silence::None => {
                log::log!(level, "the container runtime tells of no changes: it is asked every few seconds");
            }
            Silence::Broke(None) => {
                log::log!(level, "the container runtime's events ended: everything is listed again");
            }
            Silence::Broke(Some(error)) => {
                log::log!(
                    level,
                    "the container runtime's events broke off: everything is listed again: {error}"
                );
            }
        }
        self.silence = Some(silence);
        None
    }

    /// Forgets those that have come.
    pub(super) fn skip(&mut self) {
        while self.from.try_recv().is_ok() {}
    }
}

async fn is_on_host_network(client: &mut RuntimeServiceClient<Channel>, sandbox: &str) -> bool {
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
    // Gone meanwhile: then it does not matter.
    let Ok(response) = client.pod_sandbox_status(request).await else { return false };
    let linux = response.into_inner().status.and_then(|status| status.linux);
    let options = linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

fn of_sandbox(sandbox: cri::PodSandbox) -> Sandbox {
    let cri::PodSandbox { id, metadata, labels, annotations, .. } = sandbox;
    let cri::PodSandboxMetadata { name, uid, namespace, attempt: _ } = metadata.unwrap_or_default();
    Sandbox { id, uid, namespace, name, labels, annotations, host_network: None }
}

fn is_there(container: &cri::Container) -> bool {
    match container.state() {
        ContainerState::ContainerCreated | ContainerState::ContainerRunning => true,
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => false,
    }
}

fn of_container(container: cri::Container) -> Listed {
    let cri::Container { id, pod_sandbox_id, metadata, .. } = container;
    Listed { id, sandbox: pod_sandbox_id, name: metadata.unwrap_or_default().name }
}

/// The runtime's own message may have anything in it.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(status: tonic::Status) -> anyhow::Error {
    let message: String = status.message().chars().take(200).flat_map(char::escape_default).collect();
    anyhow::anyhow!("{:?}: {message}", status.code())
}

/// tonic's own error says "transport error", whatever it was.
fn innermost(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow::anyhow!("{}", error.root_cause())
}
