//! A flagged report names the listener that took the connection, its owner and the fix. Without an answer from the
//! sidecar's admin port, the report comes without them.

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
    let pid = &report["sidecar"]["pid"];
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
