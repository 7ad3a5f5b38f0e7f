//! The Helm chart of `deploy/helm`: its values, their schema and their page agree; Helm renders each profile into valid objects,
//! the kustomize base and its components among them; and a real API server, with Pod Security and GKE's quota rule in force,
//! makes the agents' pods.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROFILES: [&str; 6] = ["aks", "eks", "gke", "k3s", "openshift", "talos"];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn chart() -> PathBuf {
    deploy().join("helm/egress-tracer")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes `expected` where `UPDATE` is set, and fails if the file has something else.
fn assert_current(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, expected).expect("written");
    }
    let there = fs::read_to_string(path).unwrap_or_default();
    assert!(there == expected, "{} is stale: UPDATE=1 cargo test -p tests --test chart", path.display());
}

fn profile(name: &str) -> PathBuf {
    let path = chart().join("profiles").join(name).with_extension("yaml");
    assert!(path.exists(), "{}", path.display());
    path
}

#[test]
fn every_profile_is_in_the_list() {
    let files = fs::read_dir(chart().join("profiles")).expect("profiles");
    let mut names: Vec<String> = files
        .map(|file| {
            file.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, PROFILES);
}

/// Helm reads only files within the chart.
#[test]
fn rules_and_dashboard_of_the_chart_are_those_of_deploy_prometheus() {
    for name in ["rules.yaml", "dashboard.json"] {
        assert_current(&chart().join("files").join(name), &read(&deploy().join("prometheus").join(name)));
    }
}

/// A value of `values.yaml`: its path, its text, and the comment before it.
struct Row {
    path: String,
    default: String,
    comment: String,
}

/// The values that have a comment `# -- …`, which may go on over lines.
fn rows(values: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    for line in values.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(begin) = text.strip_prefix("# -- ") {
            comment = Some(begin.to_owned());
        } else if let Some(more) = text.strip_prefix("# ") {
            if let Some(comment) = &mut comment {
                let _ = write!(comment, " {more}"); // writing to a string cannot fail
            }
        } else if let Some((key, value)) = text.split_once(':') {
            parents.retain(|(at, _)| *at < indent);
            let mut path: Vec<&str> = parents.iter().map(|(_, name)| name.as_str()).collect();
            path.push(key);
            if let Some(comment) = comment.take() {
                rows.push(Row { path: path.join("."), default: value.trim().to_owned(), comment });
            }
            parents.push((indent, key.to_owned()));
        } else {
            comment = None;
        }
    }
    rows
}

#[test]
fn page_of_the_chart_lists_every_value() {
    let values = read(&chart().join("values.yaml"));
    let rows = rows(&values);
    let keys =
        values.lines().filter(|line| line.contains(": ") && !line.trim_start().starts_with('#')).count();
    assert_eq!(rows.len(), keys, "a value without a comment that begins with `--`");
    let mut page = read(&chart().join("README.md"));
    let head = page.find("| value |").expect("a table");
    page.truncate(head);
    page.push_str("| value | default | meaning |\n|---|---|---|\n");
    for Row { path, default, comment } in rows {
        let _ = writeln!(page, "| `{path}` | `{default}` | {} |", comment.replace('|', "\\|"));
    }
    assert_current(&chart().join("README.md"), &page);
}

/// Prints, for each of the given files, whether the chart's values with it are valid. The first argument is the chart.
const VALIDATE: &str = "
import json, sys, yaml, jsonschema
def merge(into, over):
    into = dict(into)
    for key, value in over.items():
        into[key] = merge(into[key], value) if isinstance(value, dict) and isinstance(into.get(key), dict) else value
    return into
chart = sys.argv[1]
schema = json.load(open(chart + '/values.schema.json'))
jsonschema.Draft7Validator.check_schema(schema)
values = yaml.safe_load(open(chart + '/values.yaml'))
each = [merge(values, yaml.safe_load(open(file)) or {}) for file in sys.argv[2:]]
print(json.dumps([jsonschema.Draft7Validator(schema).is_valid(one) for one in each]))
";

fn are_valid(files: &[PathBuf]) -> Vec<bool> {
    let mut python = Command::new("/usr/bin/python3");
    let output = python.args(["-c", VALIDATE]).arg(chart()).args(files).output();
    let output = output.expect("python3 (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn schema_takes_every_profile_and_refuses_what_the_chart_does_not_know() {
    assert_eq!(are_valid(&PROFILES.map(profile)), [true; PROFILES.len()]);
    let dir = tempfile::tempdir().expect("a folder");
    let wrong = [
        "replicas: 2",
        "image: {digest: sha256:123}",
        "runtime: {profile: docker}",
        "args: {--deadline: 5s}",
        "args: {no-explain: true}",
        "explain: 'yes'",
        "monitoring: {kind: probe}",
        "alerts: {brokenShare: 1}",
        "alerts: {keepFiringFor: 15}",
        "alerts: {unknownShare: 0.5}",
        "namespaces: [Shop]",
        "openshift: {SCC: true}",
    ];
    let files: Vec<PathBuf> = wrong
        .iter()
        .enumerate()
        .map(|(nth, text)| {
            let path = dir.path().join(format!("{nth}.yaml"));
            fs::write(&path, text).expect("written");
            path
        })
        .collect();
    assert_eq!(are_valid(&files), [false; 12]);
}

/// The chart sets each threshold that the rules mark, to the same default.
#[test]
fn thresholds_of_the_rules_are_values() {
    let rules = read(&chart().join("files/rules.yaml"));
    let marked: BTreeMap<String, String> = rules
        .lines()
        .filter_map(|line| line.split_once(" # threshold "))
        .map(|(code, name)| {
            let value = code.trim_end_matches(',').rsplit(' ').next().expect("a value");
            (format!("alerts.{name}"), value.to_owned())
        })
        .collect();
    let values = rows(&read(&chart().join("values.yaml")));
    let values: BTreeMap<String, String> = values
        .into_iter()
        .filter(|row| row.path.starts_with("alerts."))
        .map(|row| (row.path, row.default))
        .collect();
    assert_eq!(marked, values);
}

// What needs Helm or an API server, so that `cargo xtask test --without mesh` can leave it out by its name.
mod real_mesh;
