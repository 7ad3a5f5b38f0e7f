//! The agent's reports on stdout: flagged ones by default, all on request, none on request, and nothing that is no JSON.

use lab::{Agent, Behavior, Envoy, Lab, Script, ScriptedProxy, demo_sidecar, proxy_addr};
use serde_json::Value;

const PORT: u16 = 3128;

/// What the agent has written when it has ended, after one session that is flagged and one that is tunneled.
fn verdicts(args: &[&str]) -> Vec<String> {
    let lab = Lab::new().expect("a lab");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(PORT), Behavior::Tunnel).expect("a proxy");
    let envoy = Envoy::sidecar(&lab, &demo_sidecar()).expect("Envoy");
    let agent = Agent::start(&lab, &[&["--log", "debug"], args].concat()).expect("an agent");
    let script = [Script::connect(proxy_addr(PORT), "www.example.com:443")];
    assert_eq!(lab.play(&script).expect("a session")[0].status(), Some(404));
    envoy.apply("lds.yaml", &demo_sidecar().join("fixed/lds.yaml")).expect("the fix is taken");
    assert_eq!(lab.play(&script).expect("a session")[0].status(), Some(200));
    // The agent has both reports before it ends.
    let seen = Agent::run(&lab, &["observe", "--last", "2", "--follow", "--first", "2", "-o", "json"]);
    assert_eq!(seen.expect("observe ends").stdout.lines().count(), 2);
    let ended = agent.stop().expect("it ends");
    let lines = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    lines.map(|line: Value| line["verdict"].as_str().expect("a verdict").to_owned()).collect()
}

#[test]
fn agent_logs_the_reports_that_it_is_asked_for() {
    for (args, expected) in [
        (&[][..], &["handled_as_http"][..]),
        (&["--log-reports", "all"], &["handled_as_http", "tunneled"]),
        (&["--log-reports", "none"], &[]),
    ] {
        assert_eq!(verdicts(args), expected, "{args:?}");
    }
}
