//! The contents of `deploy/prometheus`, without the tracer: promtool accepts the rules and their tests pass, both forms
//! of the rules are the same, every alert is complete and tested, and Grafana can read the dashboard.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every alert has a test for each of these.
const CASES: [&str; 5] = ["firing", "not firing", "resolving", "flapping", "missing data"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn promtool(args: &[&str], on: &str) {
    let output = Command::new("promtool").args(args).arg(file(on)).output();
    let output = output.expect("promtool (`cargo xtask setup` installs it)");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "promtool {args:?} {on}: {}", said.concat());
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    promtool(&["check", "rules"], "rules.yaml");
    promtool(&["test", "rules"], "rules_test.yaml");
}

#[test]
fn prometheus_rule_object_has_the_rules_of_the_file() {
    let head = "# Made from rules.yaml by `UPDATE=1 cargo test -p tests --test rules`.\n\
                apiVersion: monitoring.coreos.com/v1\n\
                kind: PrometheusRule\n\
                metadata:\n  name: egress-tracer\n  labels:\n    app.kubernetes.io/name: egress-tracer\n\
                spec:\n";
    let rules = read("rules.yaml");
    let groups = rules.lines().skip_while(|line| *line != "groups:");
    let body: String = groups.flat_map(|line| ["  ", line, "\n"]).collect();
    assert!(body.starts_with("  groups:\n"), "rules.yaml has groups");
    let expected = format!("{head}{body}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file("prometheusrule.yaml"), &expected).expect("written");
    }
    let there = fs::read_to_string(file("prometheusrule.yaml")).unwrap_or_default();
    assert!(there == expected, "prometheusrule.yaml is stale: UPDATE=1 cargo test -p tests --test rules");
}

#[test]
fn every_alert_has_all_fields_and_a_test_of_each_case() {
    let (rules, tests) = (read("rules.yaml"), read("rules_test.yaml"));
    let alerts: Vec<(&str, &str)> = rules
        .split("  - alert: ")
        .skip(1)
        .map(|rest| rest.split_once('\n').expect("an alert has a body"))
        .collect();
    for due in [
        "EgressConnectHandledAsHttp",
        "EgressConnectBlackholed",
        "EgressConnectWrappedInTls",
        "EgressConnectMisdirected",
        "EgressInterceptorDown",
        "EgressProxyBypassed",
        "EgressProxyRefusing",
        "EgressProxyUnreachable",
        "EgressTracerLosingEvents",
        "EgressTracerDegraded",
        "EgressTracerDown",
    ] {
        assert!(alerts.iter().any(|(name, _)| *name == due), "{due} is missing");
    }
    for (name, body) in alerts {
        for part in ["for: ", "severity: ", "summary: ", "description: ", "runbook_url: https://"] {
            assert!(body.contains(part), "{name} lacks {part}");
        }
        assert!(body.contains("{{ $labels.") || body.contains("{{ with $labels."), "{name} names no label");
        for case in CASES {
            assert!(tests.contains(&format!("- name: \"{name}: {case}")), "{name} is not tested: {case}");
        }
        // The link leads to the page of an existing verdict, or to a section of the README.
        let url = body.split("runbook_url: ").nth(1).and_then(|rest| rest.lines().next()).expect("a link");
        let (_, page) = url.split_once("/blob/main/").expect("a page of this repository");
        if let Some(verdict) = page.strip_prefix("docs/verdicts/") {
            let verdict = verdict.strip_suffix(".md").expect("a page");
            assert!(rules.contains(&format!("verdict=\"{verdict}\"")), "{url}");
        } else {
            let (page, section) = page.split_once('#').expect("a section");
            assert_eq!((page, section), ("deploy/prometheus/README.md", name.to_lowercase().as_str()));
            assert!(read("README.md").contains(&format!("\n### {name}\n")), "{url}");
        }
    }
}

/// The fields that Grafana's dashboard schema requires:
/// <https://github.com/grafana/grafana/blob/main/kinds/dashboard/dashboard_kind.cue>.
#[test]
fn dashboard_has_the_fields_that_grafana_requires() {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    assert!(dashboard["title"].is_string() && dashboard["uid"].is_string());
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    let (mut ids, mut cells) = (HashSet::new(), HashSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title} has the id of another");
        let at = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{title} exceeds 24 columns");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} overlaps another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{title} has no query");
        for target in targets {
            let expression = target["expr"].as_str().expect("an expression");
            for used in expression.split('$').skip(1) {
                let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(
                    name.starts_with("__") || names.contains(&name.as_str()),
                    "{title}: ${name} is not defined"
                );
            }
        }
    }
}
