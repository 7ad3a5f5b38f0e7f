//! `process_*`, which every exporter has.

use nix::time::{ClockId, clock_gettime};
use prometheus::{
    Counter,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

const CPU: &str = "process_cpu_seconds_total";

/// The process metrics of the `prometheus` crate, with processor time in fractions of a second. The crate counts whole
/// seconds, and an idle agent uses one in some minutes, so every rate over less would be zero.
pub(super) struct ProcessMetrics {
    usual: ProcessCollector,
    cpu: Counter,
}

impl ProcessMetrics {
    pub(super) fn new() -> prometheus::Result<Self> {
        let cpu = Counter::new(CPU, "Total user and system CPU time spent in seconds.")?;
        Ok(Self { usual: ProcessCollector::for_self(), cpu })
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.usual.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
            Ok(time) => {
                let used = std::time::Duration::from(time).as_secs_f64();
                self.cpu.inc_by((used - self.cpu.get()).max(0.0));
            }
            Err(error) => log::warn!("the processor time of this process cannot be read: {error}"),
        }
        let mut families = self.usual.collect();
        families.retain(|family| family.name() != CPU);
        families.extend(self.cpu.collect());
        families
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;

    fn cpu_seconds(registry: &Registry) -> f64 {
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(CPU)).collect();
        let [line] = lines[..] else { panic!("{text}") };
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn processor_time_has_fractions_and_all_seven_metrics_are_there() {
        let registry = Registry::new();
        registry.register(Box::new(ProcessMetrics::new().unwrap())).unwrap();
        assert_eq!(registry.gather().len(), 7);
        let before = cpu_seconds(&registry);
        // Work until the clock of the process has moved by a hundredth of a second.
        while cpu_seconds(&registry) < before + 0.01 {}
        let after = cpu_seconds(&registry);
        assert!(after < before + 0.9, "{before} {after}: a whole second is no fraction");
    }
}
