//! The example of `deploy/prometheus/alertmanager.yaml` in a real Alertmanager: who gets how many messages.

use std::time::Duration;

use lab::{Alertmanager, Lab};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

fn alert(name: &str, scope: &str, severity: &str, more: &[(&str, &str)]) -> Value {
    let mut labels = json!({"alertname": name, "scope": scope, "severity": severity});
    for (label, value) in more {
        labels[label] = (*value).into();
    }
    json!({"labels": labels})
}

const CAUSE: [(&str, &str); 3] =
    [("verdict", "handled_as_http"), ("reason", "route_not_found"), ("proxy_port", "3128")];

fn broken(namespace: &str) -> Value {
    let more: Vec<(&str, &str)> = CAUSE.into_iter().chain([("namespace", namespace)]).collect();
    alert("EgressConnectHandledAsHttp", "namespace", "critical", &more)
}

/// The receiver and the number of alerts of each message, in order of the receivers. `first` is among them. A last alert goes
/// to the team `shop`: its group begins when the others send, so all that they send is there when its message is.
fn messages(alertmanager: &mut Alertmanager, alerts: &[Value], first: &str) -> Vec<(String, usize)> {
    alertmanager.send(alerts).expect("alerts are taken");
    alertmanager.wait(first, "firing", TIMEOUT).expect("a message");
    let last = alert("EgressConnectBlackholed", "namespace", "critical", &[("namespace", "shop")]);
    alertmanager.send(&[last]).expect("an alert is taken");
    alertmanager.wait("EgressConnectBlackholed", "firing", TIMEOUT).expect("the last message");
    let messages = alertmanager.take_messages();
    let mut counts: Vec<(String, usize)> = messages
        .iter()
        .map(|message| {
            let receiver = message["receiver"].as_str().expect("a receiver");
            (receiver.to_owned(), message["alerts"].as_array().expect("alerts").len())
        })
        .collect();
    counts.sort();
    counts
}

fn started(test: impl FnOnce(&mut Alertmanager)) {
    let lab = Lab::new().expect("a lab");
    let mut alertmanager = Alertmanager::start_example(lab.tools(), lab.dir()).expect("Alertmanager");
    test(&mut alertmanager);
}

#[test]
fn cause_that_breaks_thirty_namespaces_is_one_message_to_the_mesh_team() {
    started(|alertmanager| {
        let mut alerts: Vec<Value> = (0..30).map(|n| broken(&format!("team-{n}"))).collect();
        alerts.push(broken("shop"));
        alerts.push(alert("EgressMeshBreaksManyNamespaces", "cluster", "critical", &CAUSE));
        alerts.push(alert("EgressErrorBudgetBurnsFast", "cluster", "critical", &[]));
        alerts.push(alert("EgressAuditFindings", "cluster", "warning", &CAUSE[..1]));
        let messages = messages(alertmanager, &alerts, "EgressMeshBreaksManyNamespaces");
        assert_eq!(messages, [("mesh-team".to_owned(), 1), ("shop-team".to_owned(), 1)]);
    });
}

#[test]
fn broken_namespace_is_a_message_to_its_team_and_denials_are_none() {
    started(|alertmanager| {
        let denied = [("namespace", "shop"), ("verdict", "refused_by_proxy"), ("proxy_port", "3128")];
        let alerts =
            [broken("shop"), broken("bank"), alert("EgressProxyDenies", "namespace", "info", &denied)];
        let messages = messages(alertmanager, &alerts, "EgressConnectHandledAsHttp");
        let expected = [("platform", 1), ("shop-team", 1), ("shop-team", 1)];
        assert_eq!(messages, expected.map(|(receiver, count)| (receiver.to_owned(), count)));
    });
}

#[test]
fn alerts_of_many_agents_are_one_message() {
    started(|alertmanager| {
        let mut alerts = Vec::new();
        for node in 0..50 {
            let pod = format!("egress-tracer-{node}");
            let who = [("namespace", "egress-tracer"), ("pod", pod.as_str())];
            alerts.push(alert("EgressTracerCrashLooping", "agent", "warning", &who));
            alerts.push(alert("EgressTracerDown", "agent", "warning", &who));
        }
        let messages = messages(alertmanager, &alerts, "EgressTracerCrashLooping");
        assert_eq!(messages, [("platform".to_owned(), 50), ("shop-team".to_owned(), 1)]);
    });
}
