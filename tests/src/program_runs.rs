//! Run counts of the cgroup programs of a process, read from its descriptors. The kernel counts while
//! `kernel.bpf_stats_enabled` is 1, or while a process holds a `BPF_ENABLE_STATS` descriptor (`egress-tracer …
//! --metrics-programs`).

use std::collections::HashMap;
use std::fs;
use std::ops::AddAssign;

use anyhow::{Context, Result};

use crate::empty_programs::HOOKS;

/// Run counts of one program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// Total run time in ns.
    pub ns: u64,
    /// Number of runs.
    pub count: u64,
}

impl Runs {
    /// The runs since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { ns: self.ns - earlier.ns, count: self.count - earlier.count }
    }
}

impl AddAssign for Runs {
    fn add_assign(&mut self, others: Self) {
        self.ns += others.ns;
        self.count += others.count;
    }
}

/// The programs that a process has attached to cgroups, by the name of the program.
pub fn program_runs(pid: u32) -> Result<HashMap<&'static str, Runs>> {
    let dir = format!("/proc/{pid}/fdinfo");
    let (mut programs, mut links) = (HashMap::new(), Vec::new());
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot look at process {pid}"))? {
        // The descriptor may have been closed since it was listed.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().parse::<u64>().ok()
        };
        match (field("prog_id"), field("run_time_ns"), field("run_cnt"), field("attach_type")) {
            (Some(id), Some(ns), Some(count), _) => {
                programs.insert(id, Runs { ns, count });
            }
            (Some(id), _, _, Some(at)) => links.push((id, at)),
            _ => {}
        }
    }
    let named = links.into_iter().filter_map(|(id, at)| {
        let (name, ..) = HOOKS.into_iter().find(|(_, _, number)| u64::from(*number) == at)?;
        Some((name, *programs.get(&id)?))
    });
    Ok(named.collect())
}
