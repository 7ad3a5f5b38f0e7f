//! A full node, for the benchmark: what the agent costs at rest with as many pods as a kubelet allows by default and
//! more, and while some of them make a thousand sessions a second. It prints its measurements as a line of JSON; `cargo
//! xtask bench node` evaluates them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{NamespaceMode, NamespaceOption};
use lab::load::{Load, LoadResult};
use lab::{TestCgroup, demo_sidecar, pause, process_memory_kb};
use serde_json::json;

use crate::containerd::{ContainerdRelease, HOST};
use crate::cri::PodSpec;
use crate::test_node::{AgentPod, TestNode};

/// Of these pods, [`ASKING`] have a sidecar and an app that makes sessions.
const PODS: usize = 250;
const ASKING: usize = 8;
const RATE: u32 = 1_000;
const TIMEOUT: Duration = Duration::from_mins(2);
const COUNTED: &str = "egress_tracer_connect_sessions_total{";

/// A number from the environment, set by the benchmark.
fn asked_for(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
#[ignore = "a benchmark of minutes: `cargo xtask bench node`"]
fn full_node_costs() {
    let (rest, seconds) = (asked_for("EGRESS_TRACER_REST", 10), asked_for("EGRESS_TRACER_SECONDS", 20));
    let rest = Duration::from_secs(rest.into());
    let mut node = TestNode::build(ContainerdRelease::StreamsEvents).expect("a node");
    let agent = node.agent("egress-tracer-1", &[]).expect("an agent");
    let empty = at_rest(&agent, rest).expect("its cost");
    let start = Instant::now();
    let done: Vec<PathBuf> =
        (0..PODS).filter_map(|nth| pod(&mut node, nth, seconds).expect("a pod")).collect();
    let started = start.elapsed();
    println!("{PODS} pods: {started:?}");
    let full = at_rest(&agent, rest).expect("its cost");
    let before = cpu(&agent).expect("its cost");
    let loaded = Instant::now();
    fs::write(node.lab.dir().join("shared/go"), "").expect("told to go on");
    let loads: Vec<LoadResult> = done.iter().map(|path| wait_for_result(path).expect("a result")).collect();
    let cpu_share =
        cpu(&agent).expect("its cost").saturating_sub(before).as_secs_f64() / loaded.elapsed().as_secs_f64();
    let [resident, peak] =
        ["VmRSS", "VmHWM"].map(|field| process_memory_kb(agent.pid, field).expect("its memory"));
    let made: u64 = loads.iter().map(|done| done.count).sum();
    let took = loads.iter().map(|done| done.seconds).fold(0.0, f64::max);
    let sum_in = |metrics: &str, name: &str| -> f64 {
        let series = metrics.lines().filter(|line| line.starts_with(name));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let all = u32::try_from(made).expect("fewer");
    let mut metrics = String::new();
    // The reader may be some milliseconds late. Sessions that are still missing after the timeout are part of the
    // measurement, so the timeout is no error.
    let _ = node.wait_for("count of all sessions", |node| {
        metrics = node.metrics(&agent).expect("its metrics");
        Ok((sum_in(&metrics, COUNTED) >= f64::from(all)).then_some(()))
    });
    let sum = |name: &str| sum_in(&metrics, name);
    let labeled = metrics.lines().filter(|line| line.starts_with(COUNTED)).count();
    println!(
        "FIGURES {}",
        json!({
            "empty": empty, "full": full, "pods": PODS, "asking": ASKING, "start_seconds": started.as_secs_f64(),
            "sessions": made, "failed": loads.iter().map(|done| done.failed).sum::<u64>(), "seconds": took,
            "resident_kb": resident, "peak_kb": peak, "cpu_share": cpu_share,
            "counted": sum(COUNTED), "series": labeled,
            "misses": sum("egress_tracer_enrichment_misses_total"), "lost": sum("egress_tracer_lost_events_total"),
        })
    );
}

/// Starts a pod. Returns the path of its result if it makes sessions.
fn pod(node: &mut TestNode, nth: usize, seconds: u32) -> Result<Option<PathBuf>> {
    // `PodSpec` holds static strings, so these live as long as the test.
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let name = leak(format!("app-{nth}-5d9f8b6c5d-x2x4z"));
    let spec = PodSpec {
        namespace: leak(format!("team-{}", nth % 12)),
        name,
        labels: vec![
            ("app.kubernetes.io/name", leak(format!("app-{nth}"))),
            ("pod-template-hash", "5d9f8b6c5d"),
        ],
        ..PodSpec::default()
    };
    if nth < PODS - ASKING {
        let namespaces = NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() };
        let pod = node.cri.run_pod(&PodSpec { namespaces, ..spec })?;
        let config = node.container(1000, ["sleep", "infinity"].map(str::to_owned).to_vec());
        node.cri.start(&pod, "app", HOST, config)?;
        return Ok(None);
    }
    let shared = node.lab.dir().join("shared");
    let load = shared.join("load");
    if !load.exists() {
        let built =
            std::env::var_os("EGRESS_TRACER_LOAD").context("EGRESS_TRACER_LOAD: the load generator")?;
        fs::copy(built, &load)?;
        fs::set_permissions(&load, fs::Permissions::from_mode(0o755))?;
        let rate = RATE / u32::try_from(ASKING)?;
        let load = Load::Paced {
            proxies: vec!["10.0.0.1:3128".parse()?],
            authority: "www.example.com:443".to_owned(),
            other: None,
            rate,
            count: rate * seconds,
        };
        fs::write(shared.join("load.json"), serde_json::to_vec(&load)?)?;
    }
    let command = format!(
        "until [ -e /shared/go ]; do sleep 0.05; done; /shared/load < /shared/load.json > /shared/{name}.part; \
         mv /shared/{name}.part /shared/{name}; sleep infinity"
    );
    node.meshed(&spec, &demo_sidecar(), &["sh", "-c", &command])?;
    Ok(Some(shared.join(name)))
}

/// The agent's resident memory, and its share of a processor while no session is made.
fn at_rest(agent: &AgentPod, length: Duration) -> Result<serde_json::Value> {
    // Wait until the agent has handled the pods that were started last; it does so within a second.
    pause(Duration::from_secs(1));
    let (start, before) = (Instant::now(), cpu(agent)?);
    pause(length);
    let cpu_share = cpu(agent)?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(json!({"resident_kb": process_memory_kb(agent.pid, "VmRSS")?, "cpu_share": cpu_share}))
}

/// Processor time of the agent's container so far, with threads that have ended.
fn cpu(agent: &AgentPod) -> Result<Duration> {
    let table = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid))?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).context("no v2 cgroup")?;
    let stat = fs::read_to_string(TestCgroup::top()?.dir().join(path).join("cpu.stat"))?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("no usage_usec")?;
    Ok(Duration::from_micros(used.parse()?))
}

fn wait_for_result(path: &Path) -> Result<LoadResult> {
    let end = Instant::now() + TIMEOUT;
    while !path.exists() {
        ensure!(Instant::now() < end, "no {} within {TIMEOUT:?}", path.display());
        pause(Duration::from_millis(50));
    }
    let text = fs::read_to_string(path)?;
    let line = text.lines().last().context("no result")?;
    serde_json::from_str(line).with_context(|| format!("the load said {text}"))
}
