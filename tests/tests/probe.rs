//! `probe` sends one CONNECT as the app would, and shows the kernel's evidence beside the prediction: before the fix, after
//! it, without a sidecar's answer, and without a proxy.

use std::time::Duration;

use lab::{
    Behavior, Envoy, Lab, Process, ProcessOutput, ScriptedProxy, demo_sidecar, proxy_addr, tracer_binary,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_mins(1);

/// A process of the app, which only waits.
fn app(lab: &Lab) -> Process {
    let mut command = lab.app().command("sleep").expect("a command");
    command.arg("600");
    Process::spawn(command, &[]).expect("an app")
}

fn probe(lab: &Lab, app: &Process, more: &[&str]) -> ProcessOutput {
    let binary = tracer_binary().expect("a tracer");
    let mut command = lab.tools().command_at(&binary).expect("a command");
    command.args(["probe", "--standalone", "--family", "cgroup", "--cgroup"]).arg(lab.pod_cgroup());
    command.args(["--pid", &app.pid().to_string(), "--to", &proxy_addr(3128).to_string()]).args(more);
    Process::run(command, &[], TIMEOUT).expect("it runs to its end")
}

fn outcome(ended: &ProcessOutput) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[test]
fn probe_shows_the_sidecars_answer_before_the_fix_and_the_tunnel_after_it() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(3128), Behavior::Tunnel).expect("a proxy");
    let app = app(&lab);

    let ended = probe(&lab, &app, &["-o", "json", "--fail-on", "flagged"]);
    let before = outcome(&ended);
    assert_eq!(ended.status.code(), Some(3), "{before}");
    assert_eq!(
        (&before["app"]["status"], &before["app"]["outside_cgroup"]),
        (&404.into(), &Value::Null),
        "{before}"
    );
    assert_eq!(before["report"]["verdict"], "handled_as_http", "{before}");
    assert_eq!(before["predicted"]["reason"], "route_not_found", "{before}");
    assert_eq!(before["agrees"], true, "{before}");

    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    let ended = probe(&lab, &app, &["-o", "json", "--fail-on", "flagged"]);
    let after = outcome(&ended);
    assert_eq!(ended.status.code(), Some(0), "{after}");
    assert_eq!(after["app"]["status"], 200, "{after}");
    assert_eq!(after["report"]["verdict"], "tunneled", "{after}");
    assert_eq!(
        (&after["predicted"]["verdict"], &after["agrees"]),
        (&"tunneled".into(), &true.into()),
        "{after}"
    );

    let text = probe(&lab, &app, &[]).stdout;
    assert!(text.lines().next().is_some_and(|line| line.contains("tunneled 200")), "{text}");
    assert!(text.contains("agree       yes"), "{text}");
}

#[test]
fn probe_that_the_proxy_never_answers_ends_with_its_timeout() {
    let lab = Lab::new().expect("a lab");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(3128), Behavior::Hang).expect("a proxy");
    let app = app(&lab);
    let ended = probe(&lab, &app, &["-o", "json", "--timeout", "300ms", "--deadline", "200ms"]);
    let found = outcome(&ended);
    assert_eq!(found["app"]["status"], Value::Null, "{found}");
    assert!(
        found["app"]["error"].as_str().is_some_and(|error| error.contains("no answer within")),
        "{found}"
    );
    assert_eq!(found["report"]["verdict"], "unanswered", "{found}");
}

#[test]
fn probe_of_a_process_that_is_gone_says_so() {
    let lab = Lab::new().expect("a lab");
    let binary = tracer_binary().expect("a tracer");
    let mut command = lab.tools().command_at(&binary).expect("a command");
    command.args(["probe", "--standalone", "--pid", "4194303", "--to", "10.0.0.1:3128"]);
    Process::run(command, &[], TIMEOUT).expect("it ends").assert_error(1, &["4194303"]);
}
