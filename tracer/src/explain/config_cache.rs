//! Cache of the sidecars' configurations, for the explanations of flagged sessions. One task owns it. A slow, hostile
//! or absent admin port costs a report its explanation and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lru::LruCache;
use tracer_mesh::{Brief, Dump};

use super::admin;
use crate::netns;

/// Where a sidecar's configuration is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sidecar {
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

/// The configurations of this node's sidecars.
#[derive(Debug)]
pub struct Sidecars {
    known: LruCache<Sidecar, Known>,
    /// Ports that receive redirected connections; empty: those of the default mesh.
    redirect_ports: Vec<u16>,
    /// How the fetches went, for a metric.
    pub fetches: Fetches,
    last_fetch: Option<Instant>,
}

/// How many fetches ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    /// A dump was fetched and could be used.
    pub ok: u64,
    /// It could not be fetched or used.
    pub failed: u64,
    /// Left out, because the last one was too recent.
    pub limited: u64,
}

#[derive(Debug)]
struct Known {
    dump: Option<Dump>,
    /// Answers by question: an app that fails asks again.
    briefs: HashMap<(SocketAddr, Vec<u8>), Option<Brief>>,
    versions: Option<Vec<u8>>,
    /// The version of `dump`.
    version: Option<String>,
    asked: Instant,
    fetched: Instant,
    /// What it said is doubted, so that the sidecar is to be asked again.
    is_doubted: bool,
}

/// Least time between two questions to one sidecar.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Routes may change without a new listener or cluster: a dump is fetched anew after this time in any case.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Least time between two fetches, over all sidecars.
const FETCH_INTERVAL: Duration = Duration::from_millis(500);

/// Answers kept for each dump; when full, all are dropped.
const BRIEFS: usize = 256;

/// Limit on the text of all cached dumps, in bytes.
const MAX_KEPT: usize = 256 << 20;

impl Sidecars {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            known: LruCache::unbounded(),
            redirect_ports: Vec::new(),
            fetches: Fetches::default(),
            last_fetch: None,
        }
    }

    /// Tells which ports receive redirected connections on this node.
    #[must_use]
    pub fn redirected_to(self, ports: &[u16]) -> Self {
        Self { redirect_ports: ports.to_vec(), ..self }
    }

    /// What the configuration of `sidecar` says about a connection to `to` with first bytes `head`.
    ///
    /// `None` where the configuration could not be fetched. A fetch takes at most the admin client's limits (about
    /// 20 s), and a failed one is repeated after ten seconds at the earliest. Call it off the hot path.
    pub async fn brief(&mut self, sidecar: Sidecar, to: SocketAddr, head: &[u8]) -> Option<Answer> {
        let now = Instant::now();
        if self.is_due(sidecar, now) {
            self.refresh(sidecar, now).await;
        }
        let known = self.known.get_mut(&sidecar)?;
        let dump = known.dump.as_ref()?;
        let question = (to, head.to_vec());
        let answer = |known: &Known, brief: &Brief| Answer {
            brief: brief.clone(),
            version: known.version.clone(),
            fetched: known.fetched,
            asked: known.asked,
        };
        if let Some(brief) = known.briefs.get(&question) {
            return brief.as_ref().map(|brief| answer(known, brief));
        }
        if known.briefs.len() >= BRIEFS {
            known.briefs.clear();
        }
        let brief = tracer_mesh::brief(dump, to, head).ok();
        known.briefs.insert(question, brief.clone());
        brief.as_ref().map(|brief| answer(known, brief))
    }

    /// Lets the next question ask the sidecar whether it still has its configuration, however lately it was asked.
    pub fn doubt(&mut self, sidecar: Sidecar) {
        if let Some(known) = self.known.get_mut(&sidecar) {
            known.is_doubted = true;
        }
    }

    /// Forgets a sidecar, for example when its pod has ended.
    pub fn forget(&mut self, sidecar: Sidecar) {
        self.known.pop(&sidecar);
    }

    fn is_due(&mut self, sidecar: Sidecar, now: Instant) -> bool {
        let asked_lately = self
            .known
            .peek(&sidecar)
            .is_some_and(|known| !known.is_doubted && now.duration_since(known.asked) < ASK_INTERVAL);
        let too_soon = self.last_fetch.is_some_and(|last| now.duration_since(last) < FETCH_INTERVAL);
        if !asked_lately && too_soon {
            self.fetches.limited += 1;
        }
        !asked_lately && !too_soon
    }

    async fn refresh(&mut self, sidecar: Sidecar, now: Instant) {
        self.last_fetch = Some(now);
        let old = self.known.pop(&sidecar);
        let versions = ask(sidecar, admin::versions).await.ok().filter(|text| !text.is_empty());
        if let Some(old) = old {
            let is_current = old.dump.is_some()
                && versions.is_some()
                && old.versions == versions
                && now.duration_since(old.fetched) < MAX_AGE;
            if is_current {
                self.known.put(sidecar, Known { asked: now, is_doubted: false, ..old });
                return;
            }
        }
        let dump = ask(sidecar, admin::config_dump).await.ok().and_then(|bytes| Dump::from_bytes(bytes).ok());
        let dump = dump.map(|dump| dump.redirected_to(&self.redirect_ports));
        if dump.is_some() {
            self.fetches.ok += 1;
        } else {
            self.fetches.failed += 1;
        }
        let version = dump.as_ref().and_then(Dump::version);
        let known = Known {
            dump,
            briefs: HashMap::new(),
            versions,
            version,
            asked: now,
            fetched: now,
            is_doubted: false,
        };
        self.known.put(sidecar, known);
        self.shed();
    }

    /// Drops the least recently used dumps until the rest is small enough.
    fn shed(&mut self) {
        let size = |known: &Known| known.dump.as_ref().map_or(0, Dump::size);
        while self.known.len() > 1
            && self.known.iter().map(|(_, known)| size(known)).sum::<usize>() > MAX_KEPT
        {
            self.known.pop_lru();
        }
    }
}

/// Asks off the runtime's own threads: entering a namespace and waiting for an answer both block.
async fn ask(sidecar: Sidecar, question: fn(u16) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let Sidecar { pid, admin_port } = sidecar;
    tokio::task::spawn_blocking(move || netns::run_in(&netns::of_process(pid)?, || question(admin_port)))
        .await??
}
