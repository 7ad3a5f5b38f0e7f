//! The requests that wait for an answer, by what they ask and in whose network namespace: apart those that a socket of
//! the sidecar's may still be found for, and those that have one which they may exchange. It knows no sockets.

use std::collections::BTreeMap;

use crate::{
    event::Interception,
    session::{Asked, Connection, Lies},
};

/// Line, network namespace (0: unknown), place among all that wait: what asks the same lies together, oldest first.
type Key = (u64, u64, u64);

#[derive(Default)]
pub(super) struct Lines {
    /// To the flow.
    open: BTreeMap<Key, u64>,
    served: BTreeMap<Key, u64>,
}

impl Lines {
    /// Puts a connection's requests where they belong by now.
    pub(super) fn put(&mut self, connection: &mut Connection) {
        let open = connection.tunnel.is_none();
        let may_be_exchanged = !open && !connection.is_linked();
        let served = may_be_exchanged || connection.pending.iter().any(|asked| asked.rewritten.is_some());
        let Some(sidecar) = connection.sidecar else { return };
        for asked in &mut connection.pending {
            let Some(key) = key(sidecar, asked) else { continue };
            let before = std::mem::replace(&mut asked.lies, Lies { open, served });
            for (before, now, map) in
                [(before.open, open, &mut self.open), (before.served, served, &mut self.served)]
            {
                match (before, now) {
                    (false, true) => drop(map.insert(key, connection.flow)),
                    (true, false) => drop(map.remove(&key)),
                    (true, true) | (false, false) => {}
                }
            }
        }
    }

    /// A request waits no longer.
    pub(super) fn take(&mut self, connection: &Connection, asked: &Asked) {
        let Some(key) = connection.sidecar.and_then(|sidecar| key(sidecar, asked)) else { return };
        if asked.lies.open {
            self.open.remove(&key);
        }
        if asked.lies.served {
            self.served.remove(&key);
        }
    }

    /// The connections that wait for this, and have no socket that carries them as they are: in the same namespace, or
    /// where either side's is unknown. Oldest first.
    pub(super) fn open(&self, line: u64, netns: u64) -> impl Iterator<Item = u64> {
        find(&self.open, line, netns)
    }

    /// The connections that wait for this, and have a socket; as above.
    pub(super) fn served(&self, line: u64, netns: u64) -> impl Iterator<Item = u64> {
        find(&self.served, line, netns)
    }
}

fn key(sidecar: Interception, asked: &Asked) -> Option<Key> {
    Some((asked.line, sidecar.netns, asked.place?))
}

fn find(map: &BTreeMap<Key, u64>, line: u64, netns: u64) -> impl Iterator<Item = u64> {
    // Of the two ranges, the first has whose namespace is unknown.
    let unknown = if netns == 0 { u64::MAX } else { 0 };
    let known = (netns != 0).then(|| map.range((line, netns, 0)..=(line, netns, u64::MAX)));
    let unknown = map.range((line, 0, 0)..=(line, unknown, u64::MAX));
    unknown.chain(known.into_iter().flatten()).map(|(_, &flow)| flow)
}
