//! When records were lost: on the node, or of one network namespace whose processes made too many.

use super::{connection::Connection, expiry::TtlMap};
use crate::event::Event;

/// The most network namespaces whose losses are remembered.
const NAMESPACES: usize = 4_096;

#[derive(Default)]
pub(super) struct Losses {
    /// How many records the node had lost by the latest event.
    lost: u32,
    /// The time of the latest event by which more were lost than before.
    last: Option<u64>,
    /// By network namespace: how many of its records had been throttled by its latest event, and the time of the latest event
    /// by which there were more.
    throttled: TtlMap<u64, (u32, u64)>,
}

impl Losses {
    /// Notes what was lost before an event.
    pub(super) fn note(&mut self, event: &Event) {
        if std::mem::replace(&mut self.lost, event.lost) != event.lost {
            self.last = Some(event.time);
        }
        let known = self.throttled.get(&event.netns).map_or(0, |(count, _)| *count);
        if event.throttled != known {
            self.throttled.insert(event.time, event.netns, (event.throttled, event.time));
        }
    }

    /// Whether no record was lost since `since` that may have concerned this connection.
    pub(super) fn none_since(&self, since: u64, connection: &Connection) -> bool {
        let of = |netns: u64| self.throttled.get(&netns).map(|(_, time)| *time);
        let sidecar = connection.sidecar.and_then(|sidecar| of(sidecar.netns));
        [self.last, of(connection.netns), sidecar].into_iter().flatten().all(|lost| lost < since)
    }

    /// Forgets what was throttled before `time`.
    pub(super) fn expire(&mut self, time: u64) {
        self.throttled.expire(time, NAMESPACES);
    }
}
