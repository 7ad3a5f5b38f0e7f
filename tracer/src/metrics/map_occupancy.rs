//! How full the kernel side's maps are. They are counted when somebody asks, and not too often: it means to read them whole.

use std::{
    cell::OnceCell,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{IntGaugeVec, Registry};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::catalogue;
use crate::probes::{Probes, StateMaps};

/// Maps are counted no more often than this.
const PERIOD: Duration = Duration::from_secs(30);

/// The metrics.
pub(super) struct Fill {
    entries: IntGaugeVec,
    capacity: IntGaugeVec,
    stores: OnceCell<Arc<StateMaps>>,
    /// When they were last counted. Whoever asks while somebody else's count is under way waits for that.
    counted: Mutex<Option<Instant>>,
}

impl Fill {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            entries: catalogue::MAP_ENTRIES.gauges(registry)?,
            capacity: catalogue::MAP_CAPACITY.gauges(registry)?,
            stores: OnceCell::new(),
            counted: Mutex::default(),
        })
    }

    /// Says of the maps what does not change, and keeps them.
    pub(super) fn watch(&self, probes: &Probes) {
        let stores = self.stores.get_or_init(|| Arc::new(probes.state_maps()));
        for (map, capacity) in stores.capacities() {
            self.capacity.with_label_values(&[map]).set(i64::from(capacity));
        }
    }

    /// Counts them, unless that was done a moment ago: beside the caller's thread, which has more urgent things to do.
    pub(super) async fn refresh(&self) {
        let Some(stores) = self.stores.get().cloned() else { return };
        let mut counted = self.counted.lock().await;
        if counted.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        // Before it is done: whoever asks and goes away at once does not have them counted each time.
        *counted = Some(Instant::now());
        match spawn_blocking(move || stores.count()).await {
            Ok(counts) => {
                for (map, entries) in counts {
                    self.entries.with_label_values(&[&map]).set(i64::from(entries));
                }
            }
            Err(error) => log::warn!("cannot count the entries of the kernel's maps: {error}"),
        }
    }
}
