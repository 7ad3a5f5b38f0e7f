//! Asks the container runtime whose cgroups are whose, beside the tracer and never in its way: it is asked for owners,
//! and tells what it learns. A runtime that is absent, slow or talks nonsense costs the reports their names, and a
//! moment at most.

mod cgroups;
mod client;
mod endpoint;
mod find;
mod node;

use std::{collections::BTreeSet, convert::Infallible, path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep, sleep_until, timeout},
};

pub use endpoint::Endpoint;
pub use find::process_of;

use cgroups::Tree;
use client::Client;
use node::Node;
use tracer_core::{
    pod::{Fact, Key, Owner},
    selector::PodChoice,
};

/// How long a list may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a runtime that did not answer: at first, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// It may only be restarting: for so short a pause, who asks waits for what it says then. A report waits for a second.
const RESTART: Duration = Duration::from_secs(1);
/// The time between two looks for the sake of single owners: a flood of strangers must not become one of lists.
const BREATH: Duration = Duration::from_millis(200);
/// Events come in crowds: a pod that starts makes some ten.
const CROWD: Duration = Duration::from_millis(50);
/// A runtime that tells of changes is still asked at times, and one that does not more often: before 1.7, containerd
/// has no such events, and CRI-O has them only where `enable_pod_events` is set.
const LOOK: [Duration; 2] = [Duration::from_mins(5), Duration::from_secs(3)];
/// Owners asked for and told, at once.
const QUEUE: usize = 4_096;

/// What the runtime makes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A fact for the core.
    Fact(Fact),
    /// What lies in this cgroup (v2 id) is to be traced, or is not.
    Scope {
        /// Its id.
        cgroup: u64,
        /// Trace it.
        traced: bool,
    },
    /// This cgroup is gone.
    Unscope(u64),
}

/// The runtime's side of the tracer.
pub struct Runtime {
    wanted: Sender<Key>,
    news: Receiver<News>,
}

impl Runtime {
    /// Begins to ask, for as long as the current `LocalSet` runs. `cgroups` is where cgroup v2 is mounted.
    pub fn spawn(endpoint: Endpoint, cgroups: PathBuf, choice: PodChoice) -> Self {
        let (wanted, questions) = channel(QUEUE);
        let (to, news) = channel(QUEUE);
        let desk = Desk {
            node: Node::new(choice),
            tree: Tree::new(cgroups),
            questions,
            to,
            looked: Instant::now(),
            open: BTreeSet::new(),
        };
        tokio::task::spawn_local(desk.run(endpoint));
        Self { wanted, news }
    }

    /// Asks for owners. A key that does not fit into the queue stays without an owner.
    pub fn ask(&self, keys: Vec<Key>) {
        for key in keys {
            if self.wanted.try_send(key).is_err() {
                log::debug!("too many owners are asked for at once: {key:?} will not be known");
            }
        }
    }

    /// What is new; never, where nothing is any more.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

/// The tracer has no use for news any more.
struct Gone;

/// Asks the runtime and reports what it learns.
struct Desk {
    node: Node,
    tree: Tree,
    questions: Receiver<Key>,
    to: Sender<News>,
    /// When everything was last listed.
    looked: Instant,
    /// What was asked while the runtime was gone, and will be answered when it was tried again.
    open: BTreeSet<Key>,
}

impl Desk {
    async fn run(mut self, endpoint: Endpoint) {
        let mut pause = RETRY[0];
        loop {
            let begun = Instant::now();
            match self.serve(&endpoint).await {
                Trouble::Gone => return,
                Trouble::Runtime(error) => log::warn!(
                    "the container runtime at {endpoint} gives no answer, so new pods have no names for now: {error:#}"
                ),
            }
            if begun.elapsed() > RETRY[1] {
                pause = RETRY[0]; // it did answer for a while
            }
            if self.do_without(pause).await.is_err() {
                return;
            }
            pause = (pause * 2).min(RETRY[1]);
        }
    }

    /// Answers as well as can be without a runtime, for some time.
    async fn do_without(&mut self, pause: Duration) -> Result<(), Gone> {
        let end = Instant::now() + pause;
        self.close().await?;
        loop {
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                key = self.questions.recv() => {
                    let keys = self.questions_with(key.ok_or(Gone)?);
                    if pause > RESTART {
                        self.answer(&keys, true).await?;
                    } else if !self.answer(&keys, false).await? {
                        self.open.extend(keys);
                    }
                }
            }
        }
    }

    /// The runtime was tried again: what is still not known, is not known.
    async fn close(&mut self) -> Result<(), Gone> {
        let open = std::mem::take(&mut self.open);
        if open.is_empty() { Ok(()) } else { self.answer(&open, true).await.map(drop) }
    }

    /// Asks the runtime for as long as it answers.
    async fn serve(&mut self, endpoint: &Endpoint) -> Trouble {
        match self.listen(endpoint).await {
            Ok(never) => match never {},
            Err(trouble) => trouble,
        }
    }

    async fn listen(&mut self, endpoint: &Endpoint) -> Result<Infallible, Trouble> {
        let mut client = within(Client::connect(endpoint)).await?;
        let mut events = client.events(false);
        self.look(&mut client).await?;
        self.close().await?;
        loop {
            let next_look = self.looked + if events.is_open() { LOOK[0] } else { LOOK[1] };
            tokio::select! {
                () = sleep_until(next_look) => {
                    if events.broke_off() {
                        events = client.events(true);
                    }
                    self.look(&mut client).await?;
                }
                event = events.next(), if events.is_open() => match event {
                    Some(()) => {
                        sleep(CROWD).await;
                        events.skip();
                        self.look(&mut client).await?;
                    }
                    // It broke, or there are none. What happened meanwhile is not known: everything is listed again.
                    None => self.look(&mut client).await?,
                },
                key = self.questions.recv() => {
                    let keys = self.questions_with(key.ok_or(Gone)?);
                    if !self.answer(&keys, false).await? {
                        sleep_until(self.looked + BREATH).await;
                        let looked = self.look(&mut client).await;
                        // Whatever became of that: who asks is answered.
                        self.answer(&keys, true).await?;
                        looked?;
                    }
                }
            }
        }
    }

    /// This one, and all that were asked meanwhile.
    fn questions_with(&mut self, first: Key) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([first]);
        while let Ok(key) = self.questions.try_recv() {
            keys.insert(key);
        }
        keys
    }

    /// Answers what is known, and with `at_last` also what is not; false: something is open.
    async fn answer(&mut self, keys: &BTreeSet<Key>, at_last: bool) -> Result<bool, Gone> {
        let mut all = true;
        let mut news = Vec::new();
        let (tree, asked) = (self.tree.clone(), keys.clone());
        let mut places = aside(move || tree.places(&asked)).await;
        for &key in keys {
            match places.remove(&key).and_then(|path| self.node.owner(key, &path)) {
                Some(owner) => news.push(News::Fact(Fact::Owner(key, owner))),
                None if at_last => news.push(News::Fact(Fact::Owner(key, Owner::Unknown))),
                None => all = false,
            }
        }
        self.tell(news).await.map(|()| all)
    }

    /// Lists everything, and tells what is new.
    async fn look(&mut self, client: &mut Client) -> Result<(), Trouble> {
        let listed = within(client.list(|sandbox| self.node.knows(sandbox))).await?;
        let tree = self.tree.clone();
        let containers = aside(move || tree.containers()).await;
        self.looked = Instant::now();
        let news = self.node.update(listed, &containers);
        Ok(self.tell(news).await?)
    }

    async fn tell(&mut self, news: Vec<News>) -> Result<(), Gone> {
        for each in news {
            self.to.send(each).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

/// Why the runtime is not asked any more.
enum Trouble {
    Gone,
    Runtime(anyhow::Error),
}

impl From<Gone> for Trouble {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// On a thread for such things: the tree of a large node takes some milliseconds.
async fn aside<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Nothing comes of work that panicked or was never begun, at the end of the process.
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

async fn within<T>(asked: impl Future<Output = anyhow::Result<T>>) -> Result<T, Trouble> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(Trouble::Runtime),
        Err(_) => Err(Trouble::Runtime(anyhow::anyhow!("it did not answer within {PATIENCE:?}"))),
    }
}
