//! A client of the container runtime interface (CRI v1):
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

use super::RuntimeEndpoint;

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) annotations: HashMap<String, String>,
    /// `None`: unchanged since an earlier list.
    pub(super) host_network: Option<bool>,
}

/// A container that runs or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedContainer {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) name: String,
}

/// The sandboxes and containers of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) sandboxes: Vec<Sandbox>,
    pub(super) containers: Vec<ListedContainer>,
}

/// The largest message, as in the kubelet: the list of a full node is larger than the 4 MiB that gRPC allows by default.
const MAX_MESSAGE: usize = 16 << 20;

pub(super) struct Client(RuntimeServiceClient<Channel>);

impl Client {
    /// Connects, without a request.
    pub(super) async fn connect(endpoint: &RuntimeEndpoint) -> anyhow::Result<Self> {
        let path = endpoint.0.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // Required by tonic, and not used.
        let target = Target::from_static("http://localhost");
        let channel = target.connect_with_connector(dial).await.map_err(innermost);
        Ok(Self(
            RuntimeServiceClient::new(channel.context("cannot connect")?)
                .max_decoding_message_size(MAX_MESSAGE),
        ))
    }

    /// Lists sandboxes and containers. For each sandbox that is not `known`, it also asks for the network mode.
    pub(super) async fn list(&mut self, known: impl Fn(&str) -> bool) -> anyhow::Result<List> {
        let Self(client) = self;
        let sandboxes = client.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await;
        let sandboxes = sandboxes.map_err(status_error).context("it does not list pods")?.into_inner().items;
        let containers = client.list_containers(ListContainersRequest { filter: None }).await;
        let containers =
            containers.map_err(status_error).context("it does not list containers")?.into_inner().containers;
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

    /// Subscribes to changes. `is_retry`: an earlier failure is in the log already.
    pub(super) fn events(&self, is_retry: bool) -> Events {
        let mut client = self.0.clone();
        let (to, from) = channel(1);
        let task = async move {
            // No timeout: some runtimes send their response headers with the first event.
            let answer = client.get_container_events(GetEventsRequest {}).await;
            let mut stream = answer.map_err(EventsError::of)?.into_inner();
            let mut is_first = true;
            loop {
                tokio::select! {
                    () = to.closed() => return Ok(()),
                    event = stream.message() => {
                        let Some(_) = event.map_err(EventsError::of)? else { return Err(EventsError::Ended(None)) };
                        if std::mem::take(&mut is_first) {
                            log::info!("the container runtime sends events");
                        }
                        // A full queue already demands a list.
                        let _ = to.try_send(());
                    }
                }
            }
        };
        Events { from, task: Some(tokio::task::spawn_local(task)), error: None, is_retry }
    }
}

/// Why there are no events.
#[derive(Debug)]
enum EventsError {
    /// The runtime has no events.
    Unsupported,
    /// The stream ended, perhaps with an error.
    Ended(Option<anyhow::Error>),
}

impl EventsError {
    fn of(status: tonic::Status) -> Self {
        if status.code() == Code::Unimplemented {
            Self::Unsupported
        } else {
            Self::Ended(Some(status_error(status)))
        }
    }
}

/// A stream of events, each of which says only that something changed.
pub(super) struct Events {
    from: Receiver<()>,
    task: Option<JoinHandle<Result<(), EventsError>>>,
    error: Option<EventsError>,
    is_retry: bool,
}

impl Events {
    pub(super) fn is_open(&self) -> bool {
        self.task.is_some()
    }

    /// Did a stream end that may work again?
    pub(super) fn broke_off(&self) -> bool {
        matches!(self.error, Some(EventsError::Ended(_)))
    }

    /// The next event; `None`, once, at the end of the stream. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<()> {
        if let Some(event) = self.from.recv().await {
            return Some(event);
        }
        let ended = self.task.as_mut()?.await.unwrap_or(Ok(()));
        self.task = None;
        let error = ended.err().unwrap_or(EventsError::Ended(None));
        let level = if self.is_retry { log::Level::Debug } else { log::Level::Info };
        match &error {
            EventsError::Unsupported => {
                log::log!(level, "the container runtime has no events: it is asked every few seconds");
            }
            EventsError::Ended(None) => {
                log::log!(level, "the container runtime's events ended: everything is listed again");
            }
            EventsError::Ended(Some(error)) => {
                log::log!(
                    level,
                    "the container runtime's events broke off: everything is listed again: {error}"
                );
            }
        }
        self.error = Some(error);
        None
    }

    /// Drops the queued events.
    pub(super) fn skip(&mut self) {
        while self.from.try_recv().is_ok() {}
    }
}

async fn is_on_host_network(client: &mut RuntimeServiceClient<Channel>, sandbox: &str) -> bool {
    let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
    // A sandbox that was removed meanwhile has no further sessions.
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

fn of_container(container: cri::Container) -> ListedContainer {
    let cri::Container { id, pod_sandbox_id, metadata, .. } = container;
    ListedContainer { id, sandbox: pod_sandbox_id, name: metadata.unwrap_or_default().name }
}

/// A status as an error. The runtime's message may contain anything, so it is escaped and cut.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn status_error(status: tonic::Status) -> anyhow::Error {
    let message: String = status.message().chars().take(200).flat_map(char::escape_default).collect();
    anyhow::anyhow!("{:?}: {message}", status.code())
}

/// tonic's own error only says "transport error".
fn innermost(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    anyhow::anyhow!("{}", error.root_cause())
}
