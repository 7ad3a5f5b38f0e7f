//! The entries of the kernel maps. They are counted for a scrape, and at most every 30 seconds, because whole maps are read.

use std::{
    cell::OnceCell,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::{IntGaugeVec, Registry};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::catalogue;
use crate::probes::{Probes, StateMaps};

/// The shortest time between two counts.
const PERIOD: Duration = Duration::from_secs(30);

/// The metrics of the kernel maps.
pub(super) struct MapOccupancy {
    entries: IntGaugeVec,
    capacity: IntGaugeVec,
    maps: OnceCell<Arc<StateMaps>>,
    /// When they were last counted. A scrape waits for a count that is under way.
    counted: Mutex<Option<Instant>>,
}

impl MapOccupancy {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            entries: catalogue::MAP_ENTRIES.gauges(registry)?,
            capacity: catalogue::MAP_CAPACITY.gauges(registry)?,
            maps: OnceCell::new(),
            counted: Mutex::default(),
        })
    }

    /// Sets the capacities, and keeps the maps open for counting.
    pub(super) fn watch(&self, probes: &Probes) {
        let maps = self.maps.get_or_init(|| Arc::new(probes.state_maps()));
        for (map, capacity) in maps.capacities() {
            self.capacity.with_label_values(&[map]).set(i64::from(capacity));
        }
    }

    /// Counts the entries on another thread, unless that was done less than [`PERIOD`] ago.
    pub(super) async fn refresh(&self) {
        let Some(maps) = self.maps.get().cloned() else { return };
        let mut counted = self.counted.lock().await;
        if counted.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        // Set before the count, so that scrapes that are canceled meanwhile cause no further counts.
        *counted = Some(Instant::now());
        match spawn_blocking(move || maps.count()).await {
            Ok(counts) => {
                for (map, entries) in counts {
                    self.entries.with_label_values(&[&map]).set(i64::from(entries));
                }
            }
            Err(error) => log::warn!("cannot count the entries of the kernel's maps: {error}"),
        }
    }
}
