//! What a process has used so far, as the kernel counts it in `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a process and its descendants have used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time of their live threads.
    pub cpu: Duration,
    /// Peak resident memory in KiB, summed over the processes.
    pub peak_kb: u64,
}

impl Usage {
    /// The usage of a running process and its descendants.
    pub fn of(pid: u32) -> Result<Self> {
        let mut usage = Self::default();
        let mut pids = vec![pid];
        while let Some(pid) = pids.pop() {
            usage.peak_kb += memory_kb(pid, "VmHWM")?.unwrap_or(0); // a zombie has none
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?.path();
                let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { continue }; // the thread has ended
                let ran = schedstat.split(' ').next().and_then(|ran| ran.parse().ok());
                usage.cpu += Duration::from_nanos(ran.unwrap_or(0));
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        Ok(usage)
    }
}

/// A memory size of a running process in KiB: `VmRSS` (resident), `VmHWM` (peak resident), or another field of
/// `/proc/PID/status`.
pub fn process_memory_kb(pid: u32, field: &str) -> Result<u64> {
    memory_kb(pid, field)?.with_context(|| format!("no {field} in /proc/{pid}/status"))
}

fn memory_kb(pid: u32, field: &str) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok()))
}
