//! Cache of the sidecars' configurations, for the explanations of flagged sessions. A slow, hostile or absent admin port
//! costs the reports of its own pod their explanation, and other pods nothing.

mod bounds;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::{Mutex, Semaphore};
use tracer_mesh::{Brief, Dump};

use super::admin;
use crate::netns;

/// Where a sidecar's configuration is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdminEndpoint {
    /// Any process in the pod's network namespace; best the sidecar's own, so that a restart is another sidecar.
    pub pid: u32,
    /// The admin port.
    pub admin_port: u16,
}

/// What a sidecar's configuration says, and which configuration that is.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it says.
    pub brief: Brief,
    /// Its version, as the control plane numbers it.
    pub version: Option<String>,
    /// When it was fetched.
    pub fetched: Instant,
    /// When the sidecar was last asked whether it still has this configuration.
    pub asked: Instant,
}

/// The configurations of this node's sidecars. Clones are handles to one cache.
#[derive(Clone, Debug)]
pub struct Sidecars(Rc<Cache>);

#[derive(Debug)]
struct Cache {
    known: RefCell<LruCache<AdminEndpoint, Rc<Known>>>,
    /// Permits to fetch and decide. A thread holds its permit until it ends, however long that takes.
    running: Arc<Semaphore>,
    /// Ports that receive redirected connections; empty: those of the default mesh.
    redirect_ports: Vec<u16>,
    fetches: Cell<Fetches>,
}

/// How many fetches ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    /// A dump was fetched and could be used.
    pub ok: u64,
    /// It could not be fetched or used in time.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Known {
    /// One question at a time.
    state: Mutex<State>,
    /// How many questions wait or are being answered.
    asking: Cell<usize>,
    /// The length of the dump, in bytes.
    size: Cell<usize>,
    /// What it said is doubted, so that the sidecar is to be asked again.
    is_doubted: Cell<bool>,
}

#[derive(Debug, Default)]
struct State {
    config: Option<Config>,
    /// Answers by question: an app that fails asks again.
    briefs: HashMap<(SocketAddr, Vec<u8>), Option<Brief>>,
    /// When the sidecar may be asked again.
    next_ask: Option<Instant>,
    /// How many of its latest answers in succession could not be used.
    failures: u32,
}

#[derive(Clone, Debug)]
struct Config {
    dump: Arc<Dump>,
    versions: Vec<u8>,
    /// Its version, as the control plane numbers it.
    version: Option<String>,
    fetched: Instant,
    /// When the sidecar was last asked whether it still has it.
    asked: Instant,
}

/// Least time between two questions to one sidecar. It doubles with each failure, up to [`MAX_BACKOFF`].
const ASK_INTERVAL: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_mins(10);
/// Least time between two questions to one sidecar whose configuration is doubted.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// Routes may change without a new listener or cluster: a dump is fetched anew after this time in any case.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Limit for one explanation: the questions to the admin port, and the decision. Envoy writes some 100 MB a second.
const EXPLAIN_TIME: Duration = Duration::from_secs(2);

/// How many explanations run at a time.
const RUNNING: usize = 2;

/// How many questions about one sidecar may wait; further ones go without an answer.
const MAX_ASKING: usize = 64;

/// Answers kept for each dump; when full, all are dropped.
const BRIEFS: usize = 256;

/// The largest dump that the agent reads, in bytes, and the most that it keeps. A mesh of 5,000 services makes about 50 MB.
const MAX_DUMP: u64 = 56 << 20;
const MAX_KEPT: usize = 56 << 20;

/// The most sidecars that are known; those of a node are fewer.
const SIDECARS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

impl Default for Sidecars {
    fn default() -> Self {
        Self::new()
    }
}

impl Sidecars {
    /// An empty cache.
    pub fn new() -> Self {
        Self(Rc::new(Cache {
            known: RefCell::new(LruCache::new(SIDECARS)),
            running: Arc::new(Semaphore::new(RUNNING)),
            redirect_ports: Vec::new(),
            fetches: Cell::default(),
        }))
    }

    /// An empty cache that knows which ports receive redirected connections on this node.
    #[must_use]
    pub fn redirected_to(self, ports: &[u16]) -> Self {
        let Cache { running, .. } = &*self.0;
        Self(Rc::new(Cache {
            known: RefCell::new(LruCache::new(SIDECARS)),
            running: Arc::clone(running),
            redirect_ports: ports.to_vec(),
            fetches: Cell::default(),
        }))
    }

    /// How the fetches went, for a metric.
    pub fn fetches(&self) -> Fetches {
        self.0.fetches.get()
    }

    /// What the configuration of `sidecar` says about a connection to `to` with first bytes `head`.
    ///
    /// `None` where the configuration could not be fetched or decided on in `EXPLAIN_TIME`, or where this sidecar has
    /// lately failed to answer. Call it off the hot path, and let it run to its end: what it learns is for later questions.
    pub async fn brief(&self, sidecar: AdminEndpoint, to: SocketAddr, head: &[u8]) -> Option<Answer> {
        let known = Rc::clone(self.0.known.borrow_mut().get_or_insert(sidecar, Rc::default));
        if known.asking.get() >= MAX_ASKING {
            return None;
        }
        known.asking.set(known.asking.get() + 1);
        let brief = self.ask(sidecar, &known, to, head).await;
        known.asking.set(known.asking.get() - 1);
        brief
    }

    /// Lets the next question ask the sidecar whether it still has its configuration, unless it was asked a moment ago.
    pub fn doubt(&self, sidecar: AdminEndpoint) {
        if let Some(known) = self.0.known.borrow_mut().get(&sidecar) {
            known.is_doubted.set(true);
        }
    }

    async fn ask(
        &self,
        sidecar: AdminEndpoint,
        known: &Known,
        to: SocketAddr,
        head: &[u8],
    ) -> Option<Answer> {
        let mut state = known.state.lock().await;
        let now = Instant::now();
        let is_doubted = known.is_doubted.take()
            && state.config.as_ref().is_some_and(|config| now - config.asked >= DOUBT_INTERVAL);
        let is_due = is_doubted || state.next_ask.is_none_or(|at| at <= now);
        let question = (to, head.to_vec());
        if !is_due {
            if let Some((brief, config)) = state.briefs.get(&question).zip(state.config.as_ref()) {
                return brief.clone().map(|brief| config.answer(brief));
            }
            if state.failures > 0 {
                return None;
            }
        }
        let permit = Arc::clone(&self.0.running).acquire_owned().await.ok()?;
        let (config, ports) = (state.config.clone(), self.0.redirect_ports.clone());
        let running = tokio::task::spawn_blocking({
            let head = head.to_vec();
            move || {
                let _permit = permit;
                explain(sidecar, config, is_due, &ports, to, &head)
            }
        });
        let Ok(Ok(Ok(Explained { config, is_new, brief }))) =
            tokio::time::timeout(EXPLAIN_TIME, running).await
        else {
            self.failed(&mut state, known);
            return None;
        };
        if is_due {
            state.next_ask = Some(Instant::now() + ASK_INTERVAL);
        }
        state.failures = 0;
        if is_new {
            self.count(|fetches| fetches.ok += 1);
            state.briefs.clear();
        }
        if state.briefs.len() >= BRIEFS {
            state.briefs.clear();
        }
        state.briefs.insert(question, brief.clone());
        known.size.set(config.dump.size());
        let answer = brief.map(|brief| config.answer(brief));
        state.config = Some(config);
        self.shed(sidecar);
        answer
    }

    fn failed(&self, state: &mut State, known: &Known) {
        let backoff = ASK_INTERVAL.saturating_mul(1 << state.failures.min(6)).min(MAX_BACKOFF);
        *state = State {
            failures: state.failures + 1,
            next_ask: Some(Instant::now() + backoff),
            ..State::default()
        };
        known.size.set(0);
        self.count(|fetches| fetches.failed += 1);
    }

    fn count(&self, add: impl Fn(&mut Fetches)) {
        let mut fetches = self.0.fetches.get();
        add(&mut fetches);
        self.0.fetches.set(fetches);
    }

    /// Drops the least recently used other dumps until the rest is small enough.
    fn shed(&self, keep: AdminEndpoint) {
        let mut known = self.0.known.borrow_mut();
        known.promote(&keep);
        while known.len() > 1 && known.iter().map(|(_, known)| known.size.get()).sum::<usize>() > MAX_KEPT {
            known.pop_lru();
        }
    }
}

impl Config {
    fn answer(&self, brief: Brief) -> Answer {
        Answer { brief, version: self.version.clone(), fetched: self.fetched, asked: self.asked }
    }
}

/// What one look at a sidecar gave.
struct Explained {
    config: Config,
    /// It was fetched now.
    is_new: bool,
    brief: Option<Brief>,
}

/// Fetches what is not known, and decides. Blocks: entering a namespace, waiting for an answer and deciding all do.
fn explain(
    sidecar: AdminEndpoint,
    known: Option<Config>,
    is_due: bool,
    redirect_ports: &[u16],
    to: SocketAddr,
    head: &[u8],
) -> anyhow::Result<Explained> {
    let AdminEndpoint { pid, admin_port } = sidecar;
    let known = known.filter(|known| known.fetched.elapsed() < MAX_AGE || !is_due);
    let (config, is_new) = match known {
        Some(known) if !is_due => (known, false),
        known => {
            let (netns, asked) = (netns::of_process(pid)?, Instant::now());
            let versions = known.as_ref().map(|known| &known.versions[..]);
            let ask = || admin::changed_dump(admin_port, versions, MAX_DUMP, EXPLAIN_TIME);
            let (versions, dump) = netns::run_in(&netns, ask)??;
            match (dump, known) {
                (None, Some(known)) => (Config { asked, ..known }, false),
                (dump, _) => {
                    let dump = Dump::from_bytes(dump.unwrap_or_default())?.redirected_to(redirect_ports);
                    let version = dump.version().map(bounds::cut);
                    (Config { dump: Arc::new(dump), versions, version, fetched: asked, asked }, true)
                }
            }
        }
    };
    let brief = tracer_mesh::brief(&config.dump, to, head).ok().map(bounds::bounded);
    Ok(Explained { config, is_new, brief })
}

#[cfg(test)]
mod tests;
