//! Asks the container runtime which cgroup belongs to which container. It works beside the pipeline: a runtime that is
//! absent, slow or broken costs reports their names, and a short delay at most.

mod cgroups;
mod client;
mod endpoint;
mod find;
mod node;

use std::{cell::Cell, collections::BTreeSet, convert::Infallible, path::PathBuf, rc::Rc, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep, sleep_until, timeout},
};

pub use endpoint::RuntimeEndpoint;
pub use find::{ContainerName, app_process_of, container_names, process_of};

use cgroups::CgroupTree;
use client::Client;
use node::Node;
use tracer_core::{
    pod::{Fact, Owner, OwnerKey},
    selector::PodChoice,
};

/// The timeout of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause after a runtime that did not answer.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// The time between two warnings about one absence of the runtime.
const WARN_AGAIN: Duration = Duration::from_mins(10);
/// In a pause this short or shorter, the runtime may only be restarting, so questions stay open until the next attempt. A
/// report waits a second for its name.
const RESTART: Duration = Duration::from_secs(1);
/// The shortest time between two lists that are made for single owners, so that many unknown owners do not cause many lists.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// The wait for further events before a list: a starting pod causes about ten.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The time between lists with and without events. containerd has events since 1.7, CRI-O only with `enable_pod_events`.
const RESYNC: [Duration; 2] = [Duration::from_mins(5), Duration::from_secs(3)];
/// The capacity of the queues of questions and of updates.
const QUEUE: usize = 4_096;

/// What the runtime makes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A fact for the engine.
    Fact(Fact),
    /// Sockets of this cgroup (v2 id) are to be traced, or not.
    Scope {
        /// The cgroup's id.
        cgroup: u64,
        /// Trace it.
        traced: bool,
    },
    /// This cgroup no longer exists.
    Unscope(u64),
}

/// The pipeline's handle to the runtime.
pub struct Runtime {
    questions: Sender<OwnerKey>,
    updates: Receiver<Update>,
    connected: Rc<Cell<bool>>,
}

impl Runtime {
    /// Begins to ask, for as long as the current `LocalSet` runs. `cgroups` is the mount point of cgroup v2.
    pub fn spawn(endpoint: RuntimeEndpoint, cgroups: PathBuf, choice: PodChoice) -> Self {
        let (to_resolver, questions) = channel(QUEUE);
        let (to_pipeline, updates) = channel(QUEUE);
        let connected = Rc::new(Cell::new(false));
        let resolver = Resolver {
            node: Node::new(choice),
            tree: CgroupTree::new(cgroups),
            questions,
            updates: to_pipeline,
            listed: Instant::now(),
            open: BTreeSet::new(),
            connected: Rc::clone(&connected),
        };
        tokio::task::spawn_local(resolver.run(endpoint));
        Self { questions: to_resolver, updates, connected }
    }

    /// Asks for owners. The answers are updates. Keys that the queue has no room for stay without an answer.
    pub fn ask(&self, keys: Vec<OwnerKey>) {
        for key in keys {
            if self.questions.try_send(key).is_err() {
                log::debug!("too many owners are asked for at once: {key:?} stays unknown");
            }
        }
    }

    /// Whether the runtime answered when it was last asked.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// The next update; pending for ever once the resolver has ended.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            None => std::future::pending().await,
        }
    }
}

/// The [`Runtime`] was dropped.
#[derive(Debug, thiserror::Error)]
#[error("the pipeline takes no more updates")]
struct Closed;

/// Why the resolver stopped asking a runtime.
#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("{0:#}")]
    Runtime(anyhow::Error),
}

/// Asks the runtime and answers the pipeline.
struct Resolver {
    node: Node,
    tree: CgroupTree,
    questions: Receiver<OwnerKey>,
    updates: Sender<Update>,
    /// When everything was last listed.
    listed: Instant,
    /// Questions of a short pause, to be answered after the next attempt.
    open: BTreeSet<OwnerKey>,
    /// The runtime answered when it was last asked.
    connected: Rc<Cell<bool>>,
}

impl Resolver {
    async fn run(mut self, endpoint: RuntimeEndpoint) {
        let mut pause = RETRY[0];
        let mut warned: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let ended = self.serve(&endpoint).await;
            if self.connected.replace(false) {
                warned = None; // it answered, so what follows is news
            }
            match ended {
                Ok(never) => match never {},
                Err(ResolveError::Closed(_)) => return,
                Err(error @ ResolveError::Runtime(_)) => {
                    let is_news = warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN);
                    if is_news {
                        warned = Some(Instant::now());
                    }
                    log::log!(
                        if is_news { log::Level::Warn } else { log::Level::Debug },
                        "the container runtime at {endpoint} gives no answer, so new pods have no names for now: {error}"
                    );
                }
            }
            if begun.elapsed() > RETRY[1] {
                pause = RETRY[0]; // it worked for a while
            }
            if self.serve_without_runtime(pause).await.is_err() {
                return;
            }
            pause = (pause * 2).min(RETRY[1]);
        }
    }

    /// Answers from what is known, for the time of a pause.
    async fn serve_without_runtime(&mut self, pause: Duration) -> Result<(), Closed> {
        let end = Instant::now() + pause;
        self.close_questions().await?;
        loop {
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                key = self.questions.recv() => {
                    let keys = self.questions_with(key.ok_or(Closed)?);
                    if pause > RESTART {
                        self.answer(&keys, true).await?;
                    } else if !self.answer(&keys, false).await? {
                        self.open.extend(keys);
                    }
                }
            }
        }
    }

    /// Answers the open questions for good, after another attempt.
    async fn close_questions(&mut self) -> Result<(), Closed> {
        let open = std::mem::take(&mut self.open);
        if open.is_empty() { Ok(()) } else { self.answer(&open, true).await.map(drop) }
    }

    /// Asks the runtime as long as it answers.
    async fn serve(&mut self, endpoint: &RuntimeEndpoint) -> Result<Infallible, ResolveError> {
        let mut client = with_timeout(Client::connect(endpoint)).await?;
        let mut events = client.events(false);
        self.list(&mut client).await?;
        self.close_questions().await?;
        loop {
            let next_list = self.listed + if events.is_open() { RESYNC[0] } else { RESYNC[1] };
            tokio::select! {
                () = sleep_until(next_list) => {
                    if events.broke_off() {
                        events = client.events(true);
                    }
                    self.list(&mut client).await?;
                }
                event = events.next(), if events.is_open() => match event {
                    Some(()) => {
                        sleep(DEBOUNCE).await;
                        events.skip();
                        self.list(&mut client).await?;
                    }
                    // The stream ended, so changes may have been missed.
                    None => self.list(&mut client).await?,
                },
                key = self.questions.recv() => {
                    let keys = self.questions_with(key.ok_or(Closed)?);
                    if !self.answer(&keys, false).await? {
                        sleep_until(self.listed + MIN_INTERVAL).await;
                        let listed = self.list(&mut client).await;
                        // These questions get an answer even where the list failed.
                        self.answer(&keys, true).await?;
                        listed?;
                    }
                }
            }
        }
    }

    /// This question, and those that are queued.
    fn questions_with(&mut self, first: OwnerKey) -> BTreeSet<OwnerKey> {
        let mut keys = BTreeSet::from([first]);
        while let Ok(key) = self.questions.try_recv() {
            keys.insert(key);
        }
        keys
    }

    /// Answers questions; unknown owners only if this is `final_answer`. `false`: a question stays open.
    async fn answer(&mut self, keys: &BTreeSet<OwnerKey>, final_answer: bool) -> Result<bool, Closed> {
        let mut all = true;
        let mut updates = Vec::new();
        let (tree, asked) = (self.tree.clone(), keys.clone());
        let mut paths = on_blocking_thread(move || tree.paths(&asked)).await;
        for &key in keys {
            match paths.remove(&key).and_then(|path| self.node.owner(key, &path)) {
                Some(owner) => updates.push(Update::Fact(Fact::Owner(key, owner))),
                None if final_answer => updates.push(Update::Fact(Fact::Owner(key, Owner::Unknown))),
                None => all = false,
            }
        }
        self.send(updates).await.map(|()| all)
    }

    /// Lists everything, and sends what has changed.
    async fn list(&mut self, client: &mut Client) -> Result<(), ResolveError> {
        let list = with_timeout(client.list(|sandbox| self.node.knows(sandbox))).await?;
        let tree = self.tree.clone();
        let containers = on_blocking_thread(move || tree.containers()).await;
        self.listed = Instant::now();
        self.connected.set(true);
        let updates = self.node.update(list, &containers);
        Ok(self.send(updates).await?)
    }

    async fn send(&mut self, updates: Vec<Update>) -> Result<(), Closed> {
        for update in updates {
            self.updates.send(update).await.map_err(|_| Closed)?;
        }
        Ok(())
    }
}

/// Walking the cgroup tree of a large node blocks for some milliseconds.
async fn on_blocking_thread<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // The default stands for work that panicked, or that the end of the process canceled.
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

async fn with_timeout<T>(request: impl Future<Output = anyhow::Result<T>>) -> Result<T, ResolveError> {
    match timeout(LIST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(ResolveError::Runtime),
        Err(_) => Err(ResolveError::Runtime(anyhow::anyhow!("it did not answer within {LIST_TIMEOUT:?}"))),
    }
}
