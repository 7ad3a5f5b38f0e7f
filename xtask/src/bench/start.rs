//! Time from exec to all hooks attached, time to stop, and hooks that are left behind.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::attached_programs;
use rustix::process::Signal;
use serde_json::json;

use super::figures::{Figures, Table, median, quartiles, short};
use super::pods::BenchPod;

pub(crate) fn measure(pod: &BenchPod, times: usize, figures: &mut Figures) -> Result<()> {
    let mut started = Vec::new();
    let mut ended: [(&str, Signal, Vec<f64>, u32); 2] =
        [("SIGTERM", Signal::TERM, Vec::new(), 0), ("SIGKILL", Signal::KILL, Vec::new(), 0)];
    let hooks = || attached_programs(pod.lab.pod_cgroup()).iter().map(|(_, count)| count).sum::<u32>();
    let already = hooks();
    for _ in 0..times {
        for (_, signal, took, left) in &mut ended {
            let start = Instant::now();
            let tracer = pod.observe(&[])?;
            started.push(milliseconds(start.elapsed()));
            let start = Instant::now();
            tracer.signal(*signal)?;
            tracer.wait()?;
            took.push(milliseconds(start.elapsed()));
            // The kernel detaches links shortly after the process has ended.
            let end = Instant::now() + Duration::from_secs(2);
            while hooks() > already && Instant::now() < end {
                std::thread::yield_now();
            }
            *left += hooks() - already;
        }
    }
    let row = |what: &str, times: &[f64], left: String| {
        let [low, median, high] = quartiles(times.to_vec());
        vec![what.to_owned(), short(median), format!("{} to {}", short(low), short(high)), left]
    };
    let mut rows = vec![row("exec to all hooks attached", &started, String::new())];
    for (name, _, took, left) in &ended {
        rows.push(row(&format!("{name} to its end"), took, left.to_string()));
    }
    figures.at_most("attached after exec, ms", median(started.clone()), 300.0);
    figures.at_most("hooks left behind by SIGTERM and SIGKILL", f64::from(ended[0].3 + ended[1].3), 0.0);
    figures.numbers(
        "start",
        json!({"attached_ms": started, "term_ms": ended[0].2, "kill_ms": ended[1].2, "left": ended[0].3 + ended[1].3}),
    );
    figures.table(Table {
        title: "Start and stop",
        note: "Milliseconds: the median and the quartiles.".to_owned(),
        head: &["what", "ms", "spread", "hooks left behind"],
        rows,
    });
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
