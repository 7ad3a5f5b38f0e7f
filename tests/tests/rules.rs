//! The contents of `deploy/prometheus`, without the tracer: promtool accepts the rules and their tests pass, both forms
//! of the rules are the same, every alert is complete, tested and documented, and Grafana can read the dashboard.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> PathBuf {
    root().join("deploy/prometheus").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs one of Prometheus' tools. Returns what it printed.
fn run(program: &str, args: &[&str], on: &Path) -> String {
    let output = Command::new(program).args(args).arg(on).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program} (`cargo xtask setup` installs it): {error}"));
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{program} {args:?} {}: {said}", on.display());
    said
}

/// Each alert's name, and the lines of its rule.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    let rules = rules.split("\n  - ").filter_map(|rule| rule.strip_prefix("alert: "));
    rules.map(|rule| rule.split_once('\n').expect("an alert has a body")).collect()
}

#[test]
fn promtool_accepts_the_rules_and_every_situation_raises_its_alerts_and_no_other() {
    run("promtool", &["check", "rules"], &file("rules.yaml"));
    run("promtool", &["test", "rules"], &file("rules_test.yaml"));
}

#[test]
fn situations_that_take_days_raise_their_alerts() {
    run("promtool", &["test", "rules"], &file("rules_days_test.yaml"));
}

#[test]
fn texts_of_the_alerts_are_complete() {
    run("promtool", &["test", "rules"], &file("rules_texts_test.yaml"));
}

/// One Service breaks 300 workloads that each dial the four addresses of a proxy: one alert where they share a namespace, and
/// one for each namespace and one for the cluster where they have thirty.
#[test]
fn one_bad_service_of_300_workloads_and_four_addresses_is_one_alert_for_a_cause() {
    for (namespaces, expected) in [(1, 1), (30, 31)] {
        let mut test = format!(
            "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n",
            file("rules.yaml").display()
        );
        let mut series = |name: &str, values: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(test, "  - {{series: '{name}', values: '{values}'}}");
        };
        series("up{job=\"a\",instance=\"n\"}", "1x30");
        series("process_start_time_seconds{job=\"a\",instance=\"n\"}", "-36000x30");
        series("egress_tracer_build_info{job=\"a\",instance=\"n\"}", "1x30");
        for workload in 0..300 {
            for address in 1..=4 {
                let namespace = workload % namespaces;
                let labels = format!(
                    "job=\"a\",instance=\"n\",verdict=\"handled_as_http\",reason=\"route_not_found\",\
                     source_namespace=\"team-{namespace}\",source_workload=\"app-{workload}\",\
                     proxy_ip=\"10.0.0.{address}\",proxy_port=\"3128\""
                );
                series(&format!("egress_tracer_connect_sessions_total{{{labels}}}"), "_x20 1x10");
            }
        }
        let counted = "count(ALERTS{alertstate=\"firing\"})";
        let _ = write!(
            test,
            "  promql_expr_test:\n  - {{expr: '{counted}', eval_time: 25m, exp_samples: [{{labels: '{{}}', value: {expected}}}]}}\n"
        );
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("test.yaml");
        fs::write(&path, test).expect("written");
        run("promtool", &["test", "rules"], &path);
    }
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
    let body: String =
        groups.map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect();
    assert!(body.starts_with("  groups:\n"), "rules.yaml has groups");
    let expected = format!("{head}{body}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file("prometheusrule.yaml"), &expected).expect("written");
    }
    let there = fs::read_to_string(file("prometheusrule.yaml")).unwrap_or_default();
    assert!(there == expected, "prometheusrule.yaml is stale: UPDATE=1 cargo test -p tests --test rules");
}

#[test]
fn every_alert_has_all_fields_tests_and_a_runbook() {
    let rules = read("rules.yaml");
    let situations = read("rules_test.yaml") + &read("rules_days_test.yaml");
    let texts = read("rules_texts_test.yaml") + &read("rules_days_test.yaml");
    let page = fs::read_to_string(root().join("docs/alerts.md")).expect("docs/alerts.md");
    let mut documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `Egress").and_then(|rest| rest.split('`').next()))
        .collect();
    let alerts = alerts(&rules);
    assert!(alerts.len() > 20, "{} alerts were found", alerts.len());
    for (name, body) in alerts {
        for part in
            ["severity: ", "scope: ", "summary: ", "description: ", "command: ", "runbook_url: https://"]
        {
            assert!(body.contains(part), "{name} lacks {part}");
        }
        assert!(situations.contains(&format!("alertname=\"{name}\"")), "no situation raises {name}");
        assert!(texts.contains(&format!("alertname: {name}\n")), "the texts of {name} are not tested");
        let field = |field: &str| {
            let value = body.split(field).nth(1).and_then(|rest| rest.lines().next());
            value.unwrap_or_else(|| panic!("{name}: {field}"))
        };
        let row = format!("| `{name}` | {} | {} | ", field("severity: "), field("scope: "));
        assert!(page.contains(&row), "docs/alerts.md has no row {row}");
        documented.remove(name.strip_prefix("Egress").expect("its prefix"));
        // The link leads to the page of an existing verdict that the rule selects, or to a section of docs/alerts.md.
        let (_, link) =
            field("runbook_url: ").split_once("/blob/main/docs/").expect("a page of this repository");
        if let Some(verdict) = link.strip_prefix("verdicts/") {
            let (verdict, _) = verdict.split_once(".md").expect("a page");
            assert!(root().join(format!("docs/verdicts/{verdict}.md")).exists(), "{link}");
            assert!(
                body.contains(&format!("verdict=\"{verdict}\"")) || body.contains("egress_tracer_refused:"),
                "{name} links to {link}"
            );
        } else {
            assert_eq!(link, format!("alerts.md#{}", name.to_lowercase()));
            assert!(page.contains(&format!("\n### {name}\n")), "docs/alerts.md has no section {name}");
        }
    }
    assert!(documented.is_empty(), "docs/alerts.md lists alerts that do not exist: {documented:?}");
}

/// The thresholds that the rules mark, and their values.
fn thresholds(rules: &str) -> BTreeMap<&str, &str> {
    let mut thresholds = BTreeMap::new();
    for line in rules.lines() {
        let Some((code, name)) = line.split_once(" # threshold ") else { continue };
        let value = code.trim_end_matches(',').rsplit(' ').next().expect("a value");
        let other = thresholds.insert(name, value);
        assert!(other.is_none_or(|other| other == value), "{name} is {other:?} and {value}");
    }
    thresholds
}

#[test]
fn every_threshold_is_documented_with_its_default() {
    let rules = read("rules.yaml");
    let page = fs::read_to_string(root().join("docs/alerts.md")).expect("docs/alerts.md");
    let thresholds = thresholds(&rules);
    assert!(thresholds.len() > 10, "{thresholds:?}");
    for (name, value) in &thresholds {
        assert!(page.contains(&format!("| `{name}` | {value} | ")), "{name}, by default {value}");
    }
    let section =
        page.split("## Thresholds").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, thresholds.len(), "docs/alerts.md has thresholds that do not exist");
}

#[test]
fn alertmanager_example_is_valid_and_routes_to_the_team_of_the_namespace() {
    let example = file("alertmanager.yaml");
    run("amtool", &["check-config"], &example);
    for (labels, receiver) in [
        (&["scope=cluster", "severity=critical"][..], "mesh-team"),
        (&["scope=namespace", "severity=critical", "namespace=shop"], "shop-team"),
        (&["scope=namespace", "severity=critical", "namespace=bank"], "platform"),
        (&["scope=namespace", "severity=info", "namespace=shop"], "dashboard-only"),
        (&["scope=agent", "severity=warning", "namespace=egress-tracer"], "platform"),
        (&["scope=agent", "severity=info"], "dashboard-only"),
    ] {
        let mut amtool = Command::new("amtool");
        amtool.args(["config", "routes", "test", "--config.file"]).arg(&example).args(labels);
        let output = amtool.output().expect("amtool (`cargo xtask setup` installs it)");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), receiver, "{labels:?}");
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

/// A recorded series has a colon in its name.
#[test]
fn dashboard_reads_only_series_that_are_recorded() {
    let (rules, dashboard) = (read("rules.yaml"), read("dashboard.json"));
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut found = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            for name in expression
                .split(|c| !is_name(c))
                .filter(|name| name.contains("egress_tracer") && name.contains(':'))
            {
                found += 1;
                assert!(rules.contains(&format!("- record: {name}\n")), "{}: {name}", panel["title"]);
            }
        }
    }
    assert!(found > 5, "{found} recorded series");
}
