//! What a process has cost so far, as the kernel counts it. It reads; it changes nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process and its children have used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time of the threads that live.
    pub cpu: Duration,
    /// The most memory that was resident at once, in KiB; of several processes, the sum.
    pub peak_kb: u64,
}

impl Usage {
    /// Of a process that runs, and of those that it has started.
    pub fn of(pid: u32) -> Result<Self> {
        let mut usage = Self::default();
        let mut pids = vec![pid];
        while let Some(pid) = pids.pop() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))
                .with_context(|| format!("process {pid} has ended before it could be looked at"))?;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
            usage.peak_kb += peak.unwrap_or(0);
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?.path();
                // A thread may end meanwhile.
                let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { continue };
                let ran = schedstat.split(' ').next().and_then(|ran| ran.parse().ok());
                usage.cpu += Duration::from_nanos(ran.unwrap_or(0));
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        Ok(usage)
    }
}
