//! What the agent asks about flagged sessions: the sidecar's own explanation, from configurations that are fetched
//! seldom and kept for as long as they are in use. One task owns it; a slow, hostile or absent admin port costs a
//! report its explanation and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{admin, netns};
use tracer_mesh::{self, Brief, Dump};

/// A sidecar, as it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// Any process in the pod's network namespace; best the sidecar's own, so that a restart is another sidecar.
    pub pid: u32,
    /// The admin port, 15000 by default.
    pub admin_port: u16,
}

/// The configurations of this node's sidecars.
#[derive(Debug, Default)]
pub struct Sidecars {
    known: HashMap<Sidecar, Known>,
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
    /// None was tried, because the last one was too short a time ago.
    pub limited: u64,
}

#[derive(Debug)]
struct Known {
    dump: Option<Dump>,
    /// What the dump was asked already: an app that fails asks for the same again.
    briefs: HashMap<(SocketAddr, Vec<u8>), Option<Brief>>,
    versions: Option<Vec<u8>>,
    asked: Instant,
    fetched: Instant,
    used: Instant,
}

/// A sidecar is asked for its versions, or again after a failure, at most so often.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Routes may change without a new listener or cluster: a dump is fetched anew after this time in any case.
const MAX_AGE: Duration = Duration::from_mins(5);

/// Fetches of all sidecars together: at most one in this time.
const FETCH_INTERVAL: Duration = Duration::from_millis(500);

/// So many answers of each dump are kept; then it begins anew.
const BRIEFS: usize = 256;

/// The text of all dumps that are kept, in bytes.
const MAX_KEPT: usize = 256 << 20;

impl Sidecars {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the configuration of `sidecar` says about a connection to `to` with first bytes `head`.
    ///
    /// `None` where it could not be had now; that is never waited for longer than the admin port's own limits
    /// (about 20 s), and then not again for ten seconds. Call it off the hot path, from the task that owns this.
    pub async fn brief(&mut self, sidecar: Sidecar, to: SocketAddr, head: &[u8]) -> Option<Brief> {
        let now = Instant::now();
        if self.is_due(sidecar, now) {
            self.refresh(sidecar, now).await;
        }
        let known = self.known.get_mut(&sidecar)?;
        known.used = now;
        let dump = known.dump.as_ref()?;
        let question = (to, head.to_vec());
        if let Some(brief) = known.briefs.get(&question) {
            return brief.clone();
        }
        if known.briefs.len() >= BRIEFS {
            known.briefs.clear();
        }
        let brief = tracer_mesh::brief(dump, to, head).ok();
        known.briefs.insert(question, brief.clone());
        brief
    }

    /// Forgets a sidecar, as when its pod is gone.
    pub fn forget(&mut self, sidecar: Sidecar) {
        self.known.remove(&sidecar);
    }

    fn is_due(&mut self, sidecar: Sidecar, now: Instant) -> bool {
        let asked_lately =
            self.known.get(&sidecar).is_some_and(|known| now.duration_since(known.asked) < ASK_INTERVAL);
        let too_soon = self.last_fetch.is_some_and(|last| now.duration_since(last) < FETCH_INTERVAL);
        if !asked_lately && too_soon {
            self.fetches.limited += 1;
        }
        !asked_lately && !too_soon
    }

    async fn refresh(&mut self, sidecar: Sidecar, now: Instant) {
        self.last_fetch = Some(now);
        let old = self.known.remove(&sidecar);
        let versions = ask(sidecar, admin::versions).await.ok().filter(|text| !text.is_empty());
        if let Some(old) = old {
            let is_current = old.dump.is_some()
                && versions.is_some()
                && old.versions == versions
                && now.duration_since(old.fetched) < MAX_AGE;
            if is_current {
                self.known.insert(sidecar, Known { asked: now, ..old });
                return;
            }
        }
        let dump = ask(sidecar, admin::config_dump).await.ok().and_then(|bytes| Dump::from_bytes(bytes).ok());
        if dump.is_some() {
            self.fetches.ok += 1;
        } else {
            self.fetches.failed += 1;
        }
        self.known.insert(
            sidecar,
            Known { dump, briefs: HashMap::new(), versions, asked: now, fetched: now, used: now },
        );
        self.shed();
    }

    /// Drops what was used longest ago until the rest is small enough.
    fn shed(&mut self) {
        let size = |known: &Known| known.dump.as_ref().map_or(0, Dump::size);
        while self.known.len() > 1 && self.known.values().map(size).sum::<usize>() > MAX_KEPT {
            let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| *key)
            else {
                return;
            };
            self.known.remove(&oldest);
        }
    }
}

/// Asks off the runtime's own threads: entering a namespace and waiting for an answer both block.
async fn ask(sidecar: Sidecar, question: fn(u16) -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let Sidecar { pid, admin_port } = sidecar;
    tokio::task::spawn_blocking(move || netns::within(pid, move || question(admin_port))).await??
}
