//! The tracer's metrics with a real Prometheus and a real Alertmanager.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lab::{
    Agent, Alertmanager, Envoy, Lab, Process, ProcessOutput, Prometheus, Script, Squid, SquidPolicy, Step,
    TARGET, Target, Tracer, accelerated_rules, demo_sidecar, proxy_addr,
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
    let agent = Agent::start(&lab, &["--metrics-programs"]).expect("an agent");
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
        ("scope", "namespace"),
        ("verdict", "handled_as_http"),
        ("reason", "route_not_found"),
        ("proxy_port", "3128"),
    ] {
        assert_eq!(alert["labels"][label], value, "{alert}");
    }
    let annotation = |name: &str| alert["annotations"][name].as_str().unwrap_or_default();
    let summary = "The sidecars of apps of no known pod answer CONNECTs to proxies on port 3128 themselves";
    assert_eq!(annotation("summary"), summary);
    assert!(annotation("affected").contains("via 10.0.0.1 (workloads: 1)"), "{alert}");
    assert!(annotation("runbook_url").ends_with("/docs/verdicts/handled_as_http.md"), "{alert}");
    let said = paste(&lab, annotation("command"));
    for part in [
        "404 by sidecar",
        "www.example.com:443  10.0.0.1:3128",
        "handled_as_http route_not_found",
        "at fault",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    run_all_dashboard_queries(&prometheus);
    let metrics = lab.tools().netns().http_get("http://127.0.0.1:9475/metrics").expect("metrics");
    check_metrics(&metrics);

    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    let ended = curl(&lab, &target);
    assert!(ended.status.success(), "{ended:?}");
    alertmanager.wait("EgressConnectHandledAsHttp", "resolved", TIMEOUT).expect("the end of the alert");
    // Prometheus scraped the OpenMetrics form all the time; the target's health says that it found no error.
    let targets = prometheus.ask("targets", &[]).expect("targets");
    assert_eq!(targets["data"]["activeTargets"][0]["health"], "up", "{targets}");
    agent.stop().expect("it stops");
}

/// Runs an alert's command as a person would paste it. `kubectl` is a script that knows one agent, the lab's, and refuses
/// whatever the real one would not take.
fn paste(lab: &Lab, command: &str) -> String {
    const KUBECTL: &str = "#!/bin/sh
[ \"$1 $2\" = '-n egress-tracer' ] || { echo \"no namespace: $*\" >&2; exit 1; }
shift 2
case \"$*\" in
  'get pods -l app.kubernetes.io/name=egress-tracer -o name') echo pod/egress-tracer-x1 ;;
  'exec egress-tracer-x1 -- '*|'exec pod/egress-tracer-x1 -- '*) shift 3; exec \"$@\" ;;
  *) echo \"unknown: $*\" >&2; exit 1 ;;
esac
";
    let dir = lab.make_dir("kubectl").expect("a folder");
    let kubectl = dir.join("kubectl");
    fs::write(&kubectl, KUBECTL).expect("written");
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).expect("its mode");
    let tracer = Agent::command(lab, &[]).expect("the tracer");
    let tracer = Path::new(tracer.get_program()).parent().expect("its folder");
    let mut shell = lab.tools().command("sh").expect("a shell");
    shell.args(["-c", command]);
    shell.env("PATH", format!("{}:{}:/usr/bin:/bin", dir.display(), tracer.display()));
    let output = Process::run(shell, &[], TIMEOUT).expect("it ends");
    assert!(output.status.success(), "{command}: {output:?}");
    println!("$ {command}\n{}", output.stdout);
    output.stdout
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
