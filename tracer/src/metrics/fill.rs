//! How full the kernel side's maps are. They are counted when somebody asks, and not too often: it means to read them whole.

use std::{
    cell::{Cell, OnceCell},
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{IntGaugeVec, Registry};
use tokio::task::spawn_blocking;

use super::catalogue;
use crate::probes::{Probes, Stores};

/// Maps are counted no more often than this.
const PERIOD: Duration = Duration::from_secs(30);

/// The metrics.
pub(super) struct Fill {
    entries: IntGaugeVec,
    capacity: IntGaugeVec,
    stores: OnceCell<Arc<Stores>>,
    counted: Cell<Option<Instant>>,
}

impl Fill {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            entries: catalogue::MAP_ENTRIES.gauges(registry)?,
            capacity: catalogue::MAP_CAPACITY.gauges(registry)?,
            stores: OnceCell::new(),
            counted: Cell::default(),
        })
    }

    /// Says of the maps what does not change, and keeps them.
    pub(super) fn watch(&self, probes: &Probes) {
        let stores = self.stores.get_or_init(|| Arc::new(probes.stores()));
        for (map, capacity) in stores.capacities() {
            self.capacity.with_label_values(&[map]).set(i64::from(capacity));
        }
    }

    /// Counts them, unless that was done a moment ago: beside the caller's thread, which has more urgent things to do.
    pub(super) async fn refresh(&self) {
        let now = Instant::now();
        let Some(stores) = self.stores.get().cloned() else { return };
        if self.counted.get().is_some_and(|at| now.saturating_duration_since(at) < PERIOD) {
            return;
        }
        self.counted.set(Some(now));
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
