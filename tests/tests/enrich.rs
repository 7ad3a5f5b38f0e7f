//! A flagged report names the listener that took the connection, its owner and the fix. Without an answer from the
//! sidecar's admin port, the report comes without them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use lab::{Behavior, Envoy, Lab, Script, ScriptedProxy, Tracer, demo_sidecar, proxy_addr};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The report on one CONNECT that the demo's sidecar answers itself.
fn report(lab: &Lab, args: &[&str]) -> Value {
    let proxy = proxy_addr(3128);
    let _envoy = Envoy::sidecar(lab, &demo_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(lab, proxy, Behavior::Tunnel).expect("a proxy");
    let tracer = Tracer::start(lab, args).expect("the tracer");
    lab.play(&[Script::connect(proxy, "example.com:443")]).expect("an answer");
    let report = tracer.wait_reports(1, TIMEOUT).expect("a report").remove(0);
    let metrics = tracer.metrics().expect("metrics");
    let fetched = metrics.contains("egress_tracer_config_fetches_total{result=\"ok\"} 1");
    assert_eq!(fetched, report["listener"] != Value::Null, "{metrics}");
    assert_eq!((&report["verdict"], &report["reply"]["status"]), (&"handled_as_http".into(), &404.into()));
    report
}

#[test]
fn flagged_report_names_the_listener_its_owner_and_the_fix() {
    let lab = Lab::new().expect("a lab");
    let report = report(&lab, &["--explain"]);
    assert_eq!(report["listener"]["name"], "0.0.0.0_3128", "{report}");
    let because = report["listener"]["because"].as_str().expect("a reason");
    assert!(because.contains("default/legacy") && because.contains("3128"), "{because}");
    let fix = report["fix"].as_str().expect("a fix");
    let pid = &report["interceptor"]["pid"];
    assert!(fix.contains("ServiceEntry"), "{fix}");
    assert!(fix.ends_with(&format!("egress-tracer explain --pid {pid} --to 10.0.0.1:3128 -o yaml")), "{fix}");
}

#[test]
fn configuration_is_not_read_without_explain() {
    let lab = Lab::new().expect("a lab");
    let report = report(&lab, &[]);
    assert_eq!(report["listener"], Value::Null);
    assert_eq!(report["fix"], "docs/verdicts/handled_as_http.md");
}

#[test]
fn absent_admin_port_leaves_the_report_unexplained() {
    let lab = Lab::new().expect("a lab");
    let report = report(&lab, &["--explain", "--admin-port", "15999"]);
    assert_eq!((&report["listener"], &report["flagged"]), (&Value::Null, &true.into()), "{report}");
}

#[test]
fn silent_admin_port_leaves_the_report_unexplained() {
    let lab = Lab::new().expect("a lab");
    // The kernel accepts into the backlog; no process answers.
    let listen = || TcpListener::bind("127.0.0.1:15998");
    let _silent = lab.pod_root().netns().run(listen).expect("the pod's namespace").expect("a port");
    let report = report(&lab, &["--explain", "--admin-port", "15998"]);
    assert_eq!((&report["listener"], &report["flagged"]), (&Value::Null, &true.into()), "{report}");
}

/// Answers questions for a configuration on `listener` with `dump`, as Envoy's admin port does.
fn serve_dump(listener: TcpListener, dump: String) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let is_dump = head.first().is_some_and(|line| line.contains("/config_dump"));
            let body = if is_dump { &*dump } else { "listener_manager.lds.version: 1\n" };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            // The tracer may have given up.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

/// The report on one CONNECT that the demo's sidecar answers itself, where its admin port serves the configuration as `change`
/// leaves it; and the metrics.
fn report_beside(change: impl Fn(&mut Value)) -> (Value, String) {
    let lab = Lab::new().expect("a lab");
    let proxy = proxy_addr(3128);
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy, Behavior::Tunnel).expect("a proxy");
    let dump = envoy.admin("/config_dump?include_eds").expect("a dump");
    let mut dump: Value = serde_json::from_str(&dump).expect("JSON");
    change(&mut dump);
    let listen = || TcpListener::bind("127.0.0.1:15998");
    let listener = lab.pod_root().netns().run(listen).expect("the pod's namespace").expect("a port");
    serve_dump(listener, dump.to_string());
    let tracer = Tracer::start(&lab, &["--explain", "--admin-port", "15998"]).expect("the tracer");
    lab.play(&[Script::connect(proxy, "example.com:443")]).expect("an answer");
    let report = tracer.wait_reports(1, TIMEOUT).expect("a report").remove(0);
    (report, tracer.metrics().expect("metrics"))
}

#[test]
fn flag_that_the_configuration_contradicts_is_withdrawn_and_counted() {
    let without_its_listener = |dump: &mut Value| {
        for section in dump["configs"].as_array_mut().expect("sections") {
            for kind in ["static_listeners", "dynamic_listeners"] {
                if let Some(listeners) = section[kind].as_array_mut() {
                    listeners.retain(|listener| !listener.to_string().contains("0.0.0.0_3128"));
                }
            }
        }
    };
    let (report, metrics) = report_beside(without_its_listener);
    assert_eq!((&report["verdict"], &report["flagged"]), (&"undetermined".into(), &false.into()), "{report}");
    assert_eq!(report["reason"], "witnesses_disagree");
    assert_eq!(
        (&report["configuration"]["verdict"], &report["configuration"]["agrees"]),
        (&"tunneled".into(), &false.into())
    );
    assert_eq!((&report["fix"], &report["listener"]), (&Value::Null, &Value::Null));
    assert!(metrics.contains("egress_tracer_witness_disagreements_total 1"), "{metrics}");
    let withdrawn = "verdict=\"undetermined\"";
    assert!(metrics.contains(withdrawn) && !metrics.contains("verdict=\"handled_as_http\""), "{metrics}");
}

#[test]
fn configuration_that_agrees_is_named_in_the_report() {
    let (report, metrics) = report_beside(|_| {});
    let configuration = &report["configuration"];
    assert_eq!(
        (&report["verdict"], &configuration["agrees"]),
        (&"handled_as_http".into(), &true.into()),
        "{report}"
    );
    assert_eq!(configuration["verdict"], "handled_as_http");
    assert!(configuration["age_s"].as_u64().is_some_and(|age| age < 60), "{configuration}");
    assert!(metrics.contains("egress_tracer_witness_disagreements_total 0"), "{metrics}");
}
