//! Capture under load: how many sessions are reported, and how many correctly; the cost of 10,000 sessions, compared with
//! tcpdump and tshark on the same traffic; and whether the reported losses are the true ones.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Tracer, Usage, pause, program_runs};
use rustix::process::Signal;
use serde_json::json;

use super::figures::{Figures, Table, median, quartiles, short};
use super::observer::Observer;
use super::pods::{BenchPod, Pods, right};

const TIMEOUT: Duration = Duration::from_secs(20);
/// CONNECTs a second, rising.
const RATES: [u32; 7] = [100, 200, 400, 600, 800, 1200, 1600];

/// Raises the rate, and returns the highest that Envoy and squid sustained.
pub(crate) fn rising(pod: &BenchPod, seconds: u32, figures: &mut Figures) -> Result<u32> {
    let (mut rows, mut numbers, mut sustained) = (Vec::new(), Vec::new(), RATES[0]);
    let (mut lost_at_most, mut wrong_at_most) = (0, 0);
    for rate in RATES {
        let tracer = pod.observe(&[])?;
        let done = pod.run(&BenchPod::paced(rate, rate * seconds))?;
        let made = usize::try_from(done.count)?;
        // Ends early when all reports have arrived.
        let _ = tracer.report_lines().wait(TIMEOUT, |lines| (lines.len() >= made).then_some(()));
        let lines = tracer.report_lines().all();
        let (seen, right, lost) = (lines.len(), right(&lines), lost(&tracer.metrics()?));
        tracer.stop()?;
        let got = done.rate();
        let sustains = got >= 0.95 * f64::from(rate) && done.failed == 0;
        if sustains {
            sustained = rate;
            lost_at_most = lost_at_most.max(made.abs_diff(seen));
            wrong_at_most = wrong_at_most.max(seen - right);
        }
        rows.push(
            [
                rate.to_string(),
                short(got),
                made.to_string(),
                seen.to_string(),
                right.to_string(),
                lost.to_string(),
            ]
            .to_vec(),
        );
        numbers.push(json!({"rate": rate, "got": got, "made": made, "failed": done.failed, "seen": seen,
            "right": right, "lost_records": lost}));
        if !sustains {
            break;
        }
    }
    figures.at_most(
        "capture, sessions missed at the rates that Envoy and squid sustain",
        lost_at_most as f64,
        0.0,
    );
    figures.at_most("capture, verdicts wrong at these rates", wrong_at_most as f64, 0.0);
    figures.numbers("rising", json!(numbers));
    figures.table(Table {
        title: "Capture under load",
        note: "CONNECTs per second, half of them answered by Envoy and half passed on to squid, together with ten \
               times as many other requests. The last rate is the first one that Envoy, squid and the client did not \
               sustain on this machine."
            .to_owned(),
        head: &["offered per second", "achieved per second", "sessions", "reported", "with the right verdict", "records lost"],
        rows,
    });
    Ok(sustained)
}

/// Measures the cost of `count` sessions for each watcher, `rounds` times, each in a new pod.
pub(crate) fn cost(pods: &Pods, rounds: usize, count: u32, rate: u32, figures: &mut Figures) -> Result<()> {
    let mut found: [Vec<Cost>; Observer::WATCHERS.len()] = Default::default();
    for _ in 0..rounds {
        for (observer, found) in Observer::WATCHERS.iter().zip(&mut found) {
            found.push(pods.with_one(|pod| cost_of(pod, *observer, count, rate))?);
        }
    }
    let [ours, tcpdump, _, tshark] = &found;
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (observer, costs) in Observer::WATCHERS.iter().zip(&found) {
        let seconds: Vec<f64> = costs.iter().map(|cost| cost.cpu).collect();
        let [low, cpu, high] = quartiles(seconds.clone());
        let mb = peak(costs);
        let dropped = &costs[costs.len() - 1].said;
        rows.push(vec![
            observer.name().to_owned(),
            format!("{cpu:.3}"),
            format!("{low:.3} to {high:.3}"),
            short(1.0 / share(ours, costs)),
            short(mb),
            dropped.clone(),
            observer.blind_spot().to_owned(),
        ]);
        numbers.push(json!({"watcher": observer.name(), "sessions": count, "cpu_seconds": seconds,
            "peak_mb": mb, "said": dropped}));
    }
    figures.at_most("CPU of 10,000 sessions: share of tshark's", share(ours, tshark), 0.1);
    figures.at_most(
        "CPU of 10,000 sessions: share of tcpdump's, writing to a file",
        share(ours, tcpdump),
        1.0 / 3.0,
    );
    figures.at_most("peak memory, MB", peak(ours), 64.0);
    let in_kernel = pods.with_one(|pod| in_kernel(pod, count / 10, rate))? * 10.0;
    figures.numbers("cost", json!({"watchers": numbers, "programs_seconds": in_kernel}));
    figures.table(Table {
        title: "The cost of sessions, by watcher",
        note: format!(
            "{count} CONNECT sessions at {rate} per second, together with ten times as many other requests. CPU is the \
             user and system time of the processes: median and quartiles of {rounds} rounds, in each of which the \
             watchers ran one after the other; ratios are within a round. It does not include what the kernel does for \
             a watcher in the application's own time: the tracer's programs took {in_kernel:.2} s more (measured in a \
             run of their own); the kernel does not count the cost of a packet socket. Memory is the largest resident \
             size, shared pages included. The tracer writes each report as JSON to a file, tcpdump writes what it \
             captures to a file, tshark writes its fields to a pipe."
        ),
        head: &[
            "watcher",
            "CPU, s",
            "spread",
            "times the tracer's",
            "peak memory, MB",
            "losses it reported",
            "blind spot",
        ],
        rows,
    });
    Ok(())
}

/// Cost of the sessions for one watcher.
struct Cost {
    /// Seconds of processor time.
    cpu: f64,
    /// Peak memory, in MB.
    peak: f64,
    /// Losses that it reported.
    said: String,
}

fn cost_of(pod: &BenchPod, observer: Observer, count: u32, rate: u32) -> Result<Cost> {
    let running = observer.start(pod)?;
    let before = running.usage()?;
    let done = pod.run(&BenchPod::paced(rate, count))?;
    pause(Duration::from_millis(1_500)); // a watcher may still be reading its buffer
    // Reports that are still missing would be missing in the processor time, too.
    if let Some(written) = running.reports()? {
        ensure!(written == done.count, "egress-tracer wrote {written} of {} reports", done.count);
    }
    let Usage { cpu, peak_kb } = running.usage()?;
    let cpu = cpu.saturating_sub(before.cpu).as_secs_f64();
    Ok(Cost { cpu, peak: peak_kb as f64 / 1024.0, said: running.stop()? })
}

/// The median over all rounds of `ours` divided by `theirs`.
fn share(ours: &[Cost], theirs: &[Cost]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.cpu / theirs.cpu).collect())
}

/// Peak memory over all rounds, in MB.
fn peak(costs: &[Cost]) -> f64 {
    costs.iter().map(|cost| cost.peak).fold(0.0, f64::max)
}

/// Processor time of the tracer's kernel programs, in seconds.
fn in_kernel(pod: &BenchPod, count: u32, rate: u32) -> Result<f64> {
    let tracer = pod.observe(&["--metrics-programs", "--family", "cgroup"])?;
    pod.run(&BenchPod::paced(rate, count))?;
    let ns: u64 = program_runs(tracer.pid())?.values().map(|runs| runs.ns).sum();
    tracer.stop()?;
    Ok(ns as f64 / 1e9)
}

/// Stops one tracer until its ring buffer overflows while a second one reads on, and compares the true losses with the
/// reported ones.
pub(crate) fn losses(pod: &BenchPod, rate: u32, count: u32, figures: &mut Figures) -> Result<()> {
    let stopped = pod.observe(&["--deadline", "60s"])?;
    let reading = Tracer::start_second(&pod.lab, &pod.tracer)?;
    stopped.signal(Signal::STOP)?;
    pod.run(&BenchPod::paced(rate, count))?;
    stopped.signal(Signal::CONT)?;
    let end = Instant::now() + TIMEOUT;
    let (made, read, told) = loop {
        let (all, some) = (reading.metrics()?, stopped.metrics()?);
        let counts = (sum(&all, "records_total{") + lost(&all), sum(&some, "records_total{"), lost(&some));
        // When the sums agree, both have read everything.
        if counts.1 + counts.2 == counts.0 || Instant::now() > end {
            break counts;
        }
        pause(Duration::from_millis(300));
    };
    let wrong = {
        let lines = stopped.report_lines().all();
        let flagged =
            lines.iter().filter(|line| line.contains("\"flagged\":true") && line.contains("\"port\":3130}"));
        flagged.count()
    };
    reading.stop()?;
    stopped.stop()?;
    ensure!(told > 0, "the ring never ran over: {made} records were made");
    let missing = made.checked_sub(read).context("more was read than made")?;
    figures.at_most(
        "overflow: difference between reported and true losses",
        missing.abs_diff(told) as f64,
        0.0,
    );
    figures.at_most("overflow: tunnels wrongly flagged", wrong as f64, 0.0);
    figures.numbers(
        "losses",
        json!({"made": made, "read": read, "lost": missing, "reported": told, "blamed": wrong}),
    );
    figures.table(Table {
        title: "Losses",
        note: "The reader is stopped until its ring has overflowed, so records are lost. A second tracer reads the \
               same traffic to the end; the difference is the true loss."
            .to_owned(),
        head: &["records made", "read", "lost", "reported as lost", "tunnels wrongly flagged"],
        rows: vec![[made, read, missing, told, wrong as u64].map(|n| n.to_string()).to_vec()],
    });
    Ok(())
}

fn lost(metrics: &str) -> u64 {
    sum(metrics, "lost_events_total{")
}

/// The sum over all series of a counter.
fn sum(metrics: &str, name: &str) -> u64 {
    let series = metrics
        .lines()
        .filter(|line| line.strip_prefix("egress_tracer_").is_some_and(|l| l.starts_with(name)));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
