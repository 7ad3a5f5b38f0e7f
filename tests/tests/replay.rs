//! A recording of real traffic replays to the reports that were printed live. `UPDATE=1` writes it to `tests/traces`,
//! which the tracer's own tests replay without a kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Behavior, Envoy, Lab, Process, Script, ScriptedProxy, Step, Tracer, demo_sidecar, proxy_addr};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

fn connect(head: &str) -> Script {
    Script {
        dialed: proxy_addr(3128),
        steps: vec![Step::Send { send: head.to_owned() }, Step::Until { until: "\r\n\r\n".to_owned() }],
    }
}

/// The records of the first session's two flows: role and kind. The app had its whole answer when it closed, so its end
/// makes no record.
fn records_of_first_session(recording: &str) -> Vec<String> {
    let inputs = recording.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let events: Vec<Value> = inputs.filter_map(|mut input| input.get_mut("event").map(Value::take)).collect();
    let flows = [&events[0]["flow"], &events[0]["link"]];
    let of_session = events.iter().filter(|event| flows.contains(&&event["flow"]));
    let record = |event: &Value| {
        let what = event["what"].as_object().and_then(|what| what.keys().next()).expect("what happened");
        format!("{} {what}", event["role"].as_str().expect("a role"))
    };
    of_session.map(record).collect()
}

#[test]
fn recording_replays_to_the_reports_printed_live() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let _proxy =
        ScriptedProxy::start(&lab, proxy_addr(3128), Behavior::Statuses(vec![407])).expect("a proxy");
    let recording = lab.dir().join("recording.jsonl");
    let tracer = Tracer::start(&lab, &["--record", &recording.display().to_string()]).expect("the tracer");

    let secret = "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n";
    let handled =
        format!("CONNECT handled.example:443 HTTP/1.1\r\nHost: handled.example:443\r\n{secret}\r\n");
    let passed = format!("CONNECT passed.example:443 HTTP/1.0\r\n{secret}\r\n");
    for head in [&handled, &passed] {
        lab.play(&[connect(head)]).expect("an answer");
    }
    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    lab.play(&[connect(&handled)]).expect("an answer");
    let reports = tracer.wait_reports(3, TIMEOUT).expect("three reports");
    assert_eq!(
        reports.iter().map(|report| report["verdict"].as_str().unwrap_or_default()).collect::<Vec<_>>(),
        ["handled_as_http", "refused_by_proxy", "refused_by_proxy"],
    );
    let ended = tracer.stop().expect("it stops");
    let written = fs::read_to_string(&recording).expect("a recording");
    assert!(!written.contains("dXNlcjpzZWNyZXQ"), "{written}");
    assert_eq!(records_of_first_session(&written), ["app sent", "reply sent", "reply ended"], "{written}");

    let mut command = Command::new(lab::tracer_binary().expect("the binary"));
    command.args(["replay", "-o", "json"]).arg(&recording);
    let replayed = Process::run_checked(command, &[], TIMEOUT).expect("it replays");
    assert_eq!(replayed.stdout, ended.stdout);

    if std::env::var_os("UPDATE").is_some() {
        let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
        fs::write(traces.join("gotcha.jsonl"), written).expect("written");
        fs::write(traces.join("gotcha.reports.jsonl"), ended.stdout).expect("written");
    }
}
