//! The tracer's metrics with a real Prometheus and a real Alertmanager.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lab::{
    Alertmanager, Envoy, Lab, ProcessOutput, Prometheus, Script, Squid, SquidPolicy, Step, TARGET, Target,
    Tracer, accelerated_rules, demo_sidecar, proxy_addr,
};
use serde_json::Value;

const NAME: &str = "www.example.com";
const TIMEOUT: Duration = Duration::from_mins(1);

const PROXY_PORT: u16 = 3128;

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(name)
}

fn curl(lab: &Lab, target: &Target) -> ProcessOutput {
    let (ca, proxy) =
        (target.certificate().display().to_string(), format!("http://{}", proxy_addr(PROXY_PORT)));
    let url = format!("https://{NAME}/page.html");
    lab.run_app("curl", &["-sS", "-m", "20", "--cacert", &ca, "-x", &proxy, &url]).expect("curl runs")
}

#[test]
fn failure_fires_its_alert_and_fills_the_dashboard_and_the_fix_resolves_the_alert() {
    let lab = Lab::new().expect("a lab");
    let hosts = vec![(NAME.to_owned(), TARGET.to_string())];
    let policy = SquidPolicy { hosts, denied: Vec::new(), credentials: None };
    let _squid = Squid::start(&lab, proxy_addr(PROXY_PORT), &policy).expect("squid");
    let target = Target::start(&lab, SocketAddr::new(TARGET, 443), NAME).expect("a TLS server");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let tracer = Tracer::start(&lab, &["--metrics-programs"]).expect("a tracer");
    let mut alertmanager = Alertmanager::start(lab.tools(), lab.dir()).expect("Alertmanager");
    let rules = accelerated_rules(lab.dir()).expect("the rules");
    let prometheus = Prometheus::start(lab.tools(), lab.dir(), &rules, alertmanager.address());
    let prometheus = prometheus.expect("Prometheus");

    let start = Instant::now();
    assert!(curl(&lab, &target).stderr.contains("404"), "the demo's failure");
    let alert = alertmanager.wait("EgressConnectHandledAsHttp", "firing", TIMEOUT).expect("an alert");
    println!("the alert arrived {:?} after the failure", start.elapsed());
    for (label, value) in [
        ("severity", "critical"),
        ("verdict", "handled_as_http"),
        ("reason", "route_not_found"),
        ("proxy_ip", "10.0.0.1"),
        ("proxy_port", "3128"),
        ("job", "egress-tracer"),
    ] {
        assert_eq!(alert["labels"][label], value, "{alert}");
    }
    let annotation = |name: &str| alert["annotations"][name].as_str().unwrap_or_default();
    assert_eq!(annotation("summary"), "Envoy handles CONNECTs of an app to the proxy 10.0.0.1:3128 as HTTP");
    assert!(annotation("description").contains("egress-tracer explain --to 10.0.0.1:3128"), "{alert}");
    assert!(annotation("runbook_url").ends_with("/docs/verdicts/handled_as_http.md"), "{alert}");
    run_all_dashboard_queries(&prometheus);
    check_metrics(&tracer.metrics().expect("metrics"));

    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    let ended = curl(&lab, &target);
    assert!(ended.status.success(), "{ended:?}");
    alertmanager.wait("EgressConnectHandledAsHttp", "resolved", TIMEOUT).expect("the end of the alert");
    // Prometheus scraped the OpenMetrics form all the time; the target's health says that it found no error.
    let targets = prometheus.ask("targets", &[]).expect("targets");
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{targets}");
    tracer.stop().expect("it stops");
}

/// Runs each panel's queries with values for Grafana's variables. Each must return a series.
fn run_all_dashboard_queries(prometheus: &Prometheus) {
    let text = fs::read_to_string(deployed("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for query in panel["targets"].as_array().into_iter().flatten() {
            let expression = query["expr"].as_str().expect("an expression");
            let expression = expression.replace("$__rate_interval", "6s").replace("$namespace", ".*");
            let result = prometheus.query(&expression).expect("an answer");
            let found = result.as_array().is_some_and(|found| !found.is_empty());
            assert!(found, "{}: {expression} gives {result}", panel["title"]);
            asked += 1;
        }
    }
    assert!(asked > 15, "{asked} queries");
}

fn check_metrics(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (`cargo xtask setup` installs it)");
    promtool.stdin.take().expect("its stdin").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The number of sessions of all verdicts.
fn sessions(metrics: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with("egress_tracer_connect_sessions_total{"));
    lines.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a count")).sum()
}

#[test]
fn scrapes_under_load_are_fast_and_every_session_is_counted() {
    const SESSIONS: usize = 6000;
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let tracer = Tracer::start(&lab, &[]).expect("a tracer");
    // 200 clients at a time, each of which waits 180 ms before its request: a thousand sessions a second.
    let mut script = Script::connect(proxy_addr(PROXY_PORT), "www.example.com:443");
    script.steps.insert(0, Step::Wait { wait: 180 });
    let scripts = vec![script; SESSIONS];
    let mut took = Vec::new();
    let start = Instant::now();
    let load = thread::scope(|scope| {
        let (to, done) = channel();
        let lab = &lab;
        scope.spawn(move || {
            let transcripts = lab.play(&scripts);
            to.send(transcripts.map(|all| all.iter().filter(|t| t.status() == Some(404)).count()))
        });
        loop {
            // Within what a peer may ask for: a burst of twenty scrapes, and one a second.
            match done.recv_timeout(Duration::from_millis(500)) {
                Ok(answered) => break answered.expect("a load"),
                Err(RecvTimeoutError::Timeout) => {
                    let start = Instant::now();
                    tracer.metrics().expect("a scrape under load");
                    took.push(start.elapsed());
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the load failed"),
            }
        }
    });
    let lasted = start.elapsed();
    assert!(lasted < Duration::from_secs(12), "this machine is too busy for this load: {lasted:?}");
    assert_eq!(load, SESSIONS, "Envoy answered each");
    tracer.wait_reports(SESSIONS, TIMEOUT).expect("a report for each");
    let metrics = tracer.metrics().expect("metrics");
    let lost: Vec<&str> = metrics.lines().filter(|line| line.contains("_lost_events_total{")).collect();
    assert_eq!(sessions(&metrics), SESSIONS as u64, "{lost:?}");
    took.sort();
    assert!(took.len() >= 5, "too few scrapes to tell: {took:?}");
    println!(
        "{SESSIONS} sessions in {lasted:?}; {} scrapes: median {:?}, slowest {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    // The median: other load on the machine may delay a single scrape.
    assert!(took[took.len() / 2] < Duration::from_millis(50), "{took:?}");
    tracer.stop().expect("it stops");
}
