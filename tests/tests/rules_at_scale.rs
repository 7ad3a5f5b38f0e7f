//! The queries of the rules and of the dashboard on a tenth of 2,000 nodes: a generator writes an hour of the agents' series, and
//! a real Prometheus answers each query that reads them within a second. (What reads recorded series reads much less.)

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::{Lab, Prometheus};
use serde_json::Value;

const NODES: usize = 200;
/// Seconds between scrapes, and their number: an hour.
const STEP: u64 = 30;
const SCRAPES: u64 = 120;
/// Pairs of workload and proxy on a node; four of them fail.
const PAIRS: usize = 20;
const LIMIT: Duration = Duration::from_secs(1);

/// Writes OpenMetrics with time stamps.
struct Generator {
    text: String,
    start: u64,
}

impl Generator {
    fn family(&mut self, name: &str, kind: &str) {
        let _ = writeln!(self.text, "# TYPE {name} {kind}"); // writing to a string cannot fail
    }

    /// A series that grows by `rate` at each scrape, or is `rate` where it does not grow.
    fn series(&mut self, name: &str, labels: &str, rate: u64, grows: bool) {
        for scrape in 0..SCRAPES {
            let (value, time) = (if grows { rate * scrape } else { rate }, self.start + scrape * STEP);
            let _ = writeln!(self.text, "{name}{{{labels}}} {value} {time}");
        }
    }
}

fn agent(node: usize) -> String {
    format!(
        "job=\"egress-tracer\",instance=\"10.0.0.{node}:9475\",namespace=\"egress-tracer\",pod=\"egress-tracer-{node}\",\
         node=\"node-{node}\""
    )
}

/// What a session's labels are on a node.
fn session(node: usize, pair: usize) -> String {
    let workload = (node * 7 + pair * 13) % 500;
    let (verdict, reason) = match pair {
        16 | 17 => ("refused_by_proxy", ""),
        18 => ("handled_as_http", "route_not_found"),
        19 => ("unreachable", "connect_failed"),
        _ => ("tunneled", ""),
    };
    format!(
        "{},verdict=\"{verdict}\",reason=\"{reason}\",source_namespace=\"team-{}\",source_workload=\"app-{workload}\",\
         proxy_ip=\"10.9.0.{}\",proxy_port=\"3128\"",
        agent(node),
        workload % 50,
        pair % 4
    )
}

fn generate(start: u64) -> String {
    let mut all = Generator { text: String::new(), start };
    all.family("egress_tracer_connect_sessions", "counter");
    for (node, pair) in (0..NODES).flat_map(|node| (0..PAIRS).map(move |pair| (node, pair))) {
        all.series("egress_tracer_connect_sessions_total", &session(node, pair), pair as u64 % 5 + 1, true);
    }
    for (name, value) in
        [("up", 1), ("egress_tracer_build_info", 1), ("process_start_time_seconds", start - 99_999)]
    {
        all.family(name, "gauge");
        (0..NODES).for_each(|node| all.series(name, &agent(node), value, false));
    }
    for (name, label, values) in [
        ("egress_tracer_records", "kind", ["dial", "request", "reply", "upstream", "end"]),
        (
            "egress_tracer_lost_events",
            "reason",
            ["ring_full", "payload_unreadable", "map_full", "payload_in_kernel", "malformed"],
        ),
    ] {
        all.family(name, "counter");
        for (node, value) in (0..NODES).flat_map(|node| values.map(|value| (node, value))) {
            let labels = format!("{},{label}=\"{value}\"", agent(node));
            all.series(&format!("{name}_total"), &labels, 3, true);
        }
    }
    all.family("egress_tracer_connect_reply_duration_seconds_bucket", "gauge");
    for (node, verdict) in
        (0..NODES).flat_map(|node| ["tunneled", "handled_as_http"].map(|verdict| (node, verdict)))
    {
        for bound in 0..15 {
            let labels = format!("{},verdict=\"{verdict}\",le=\"{bound}\"", agent(node));
            all.series("egress_tracer_connect_reply_duration_seconds_bucket", &labels, 3, true);
        }
    }
    all.text + "# EOF\n"
}

/// The expressions of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a file of deploy/prometheus");
    let rules: Value = serde_saphyr::from_str(&read("rules.yaml")).expect("YAML");
    let rules = rules["groups"].as_array().expect("groups").iter().flat_map(|group| {
        let rules = group["rules"].as_array().expect("rules").iter();
        rules.map(|rule| rule["expr"].as_str().expect("an expression").to_owned())
    });
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let panels = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let panels = panels.map(|target| {
        let expression = target["expr"].as_str().expect("an expression");
        expression.replace("$__rate_interval", "2m").replace("$namespace", ".*")
    });
    rules.chain(panels).collect()
}

#[test]
fn every_query_takes_less_than_a_second_on_two_hundred_nodes() {
    let lab = Lab::new().expect("a lab");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let start = now - SCRAPES * STEP;
    let (series, data) = (lab.dir().join("series.txt"), lab.dir().join("data"));
    fs::write(&series, generate(start)).expect("written");
    let mut promtool = Command::new("promtool");
    let made = promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&series).arg(&data).output();
    let made = made.expect("promtool (`cargo xtask setup` installs it)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let prometheus = Prometheus::over(lab.tools(), lab.dir(), &data).expect("Prometheus");
    let at = (now - STEP).to_string();
    let mut times = Vec::new();
    for expression in expressions() {
        // The shortest of three: other load on the machine may delay one.
        let mut took = [Duration::MAX; 3];
        for took in &mut took {
            let start = Instant::now();
            prometheus.query_at(&expression, &at).expect("an answer");
            *took = start.elapsed();
        }
        times.push((took.into_iter().min().expect("three"), expression));
    }
    times.sort();
    for (took, expression) in times.iter().rev().take(5) {
        println!("{took:?}: {}", expression.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let (slowest, expression) = times.last().expect("expressions");
    assert!(*slowest < LIMIT, "{slowest:?}: {expression}");
    // The series are there: a workload of each node is broken.
    let broken =
        "count(increase(egress_tracer_connect_sessions_total{verdict=\"handled_as_http\"}[10m]) > 0)";
    let broken = prometheus.query_at(broken, &at).expect("an answer");
    assert_eq!(broken[0]["value"][1], NODES.to_string(), "{broken}");
}
