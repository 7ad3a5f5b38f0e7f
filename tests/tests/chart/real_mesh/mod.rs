//! What Helm makes of the chart, and what an API server makes of that.

mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Process, cached_schemas, helm};
use serde_json::{Value, json};

use crate::{PROFILES, assert_current, chart, deploy, profile};

const TIMEOUT: Duration = Duration::from_mins(1);

/// Runs Helm without a cluster. Returns what it printed.
fn helm_with(args: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = helm(home.path()).expect("Helm");
    // A Helm that Go compiled without its release's flags takes Kubernetes 1.20 for the newest.
    command.args(args).args(["--kube-version", "1.36.1"]);
    Process::run_checked(command, &[], TIMEOUT).expect("Helm succeeds").stdout
}

/// The chart's objects as text.
fn template(args: &[&str]) -> String {
    let chart = chart().display().to_string();
    let fixed = ["template", "egress-tracer", &chart, "--namespace", "egress-tracer"];
    helm_with(&fixed.iter().chain(args).copied().collect::<Vec<_>>())
}

/// What Helm adds and a kustomization has no use for: labels of the release, and the namespace, which the kustomization
/// sets.
fn is_of_helm(line: &str) -> bool {
    const OF_HELM: [&str; 6] = [
        "app.kubernetes.io/instance:",
        "app.kubernetes.io/version:",
        "app.kubernetes.io/managed-by:",
        "helm.sh/chart:",
        "namespace: egress-tracer",
        "# Source:",
    ];
    OF_HELM.iter().any(|prefix| line.trim_start().starts_with(prefix))
}

/// The chart's objects without what is Helm's, each with its text.
fn rendered(args: &[&str]) -> Vec<(String, String)> {
    template(args)
        .split("---\n")
        .map(|object| {
            let lines = object.lines().filter(|line| !is_of_helm(line) && !line.trim().is_empty());
            lines.flat_map(|line| [line, "\n"]).collect::<String>()
        })
        .filter_map(|object| {
            let kind = object.lines().find_map(|line| line.strip_prefix("kind: "))?.to_lowercase();
            Some((kind, object))
        })
        .collect()
}

/// Objects that the schemas of three minor versions of Kubernetes take, of a kustomization with components or of a file.
fn checked(what: &Path, components: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).arg(cached_schemas()).arg(what);
    command.args(components.iter().map(|component| deploy().join(component)));
    let output = command.output().expect("python3 (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{}: {}", what.display(), String::from_utf8_lossy(&output.stderr));
    let mut objects: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    objects.sort_by_key(|object| object["kind"].as_str().map(str::to_owned));
    objects
}

/// The chart's objects, checked.
fn checked_chart(args: &[&str]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("objects.yaml");
    let objects: Vec<String> = rendered(args).into_iter().map(|(_, object)| object).collect();
    fs::write(&path, objects.join("---\n")).expect("written");
    checked(&path, &[])
}

#[test]
fn helm_finds_no_fault_in_the_chart() {
    let chart = chart().display().to_string();
    helm_with(&["lint", "--strict", &chart]);
    for name in PROFILES {
        helm_with(&["lint", "--strict", &chart, "--values", &profile(name).display().to_string()]);
    }
}

#[test]
fn kustomize_base_is_rendered_from_the_chart() {
    let objects = rendered(&["--set", "namespace=true"]);
    let kinds: Vec<&str> = objects.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["namespace", "networkpolicy", "serviceaccount", "daemonset", "podmonitor"]);
    for (kind, object) in objects {
        // The kustomization sets the image and its tag.
        let object = object
            .lines()
            .map(|line| {
                if line.trim_start().starts_with("image: ") { "          image: egress-tracer" } else { line }
            })
            .flat_map(|line| [line, "\n"]);
        let head = "# Rendered from deploy/helm by `UPDATE=1 cargo test -p tests --test chart`.\n";
        let text: String = [head].into_iter().chain(object).collect();
        assert_current(&deploy().join("base").join(kind).with_extension("yaml"), &text);
    }
}

/// Each overlay and component says the same as the value of the chart for it.
#[test]
fn kustomizations_are_the_chart_with_the_same_values() {
    for (kustomization, components, values) in [
        ("base", &[][..], &[][..]),
        ("base", &["components/explain"], &["--set", "explain=true"]),
        ("base", &["components/crio"], &["--set", "runtime.profile=crio"]),
        (
            "base",
            &["components/seccomp"],
            &[
                "--set",
                "securityContext.seccompProfile.type=Localhost,securityContext.seccompProfile.localhostProfile=egress-tracer.json",
            ],
        ),
        ("overlays/annotations", &[], &["--set", "monitoring.kind=annotations"]),
    ] {
        let mut expected = checked_chart(&[&["--set", "namespace=true"], values].concat());
        for object in &mut expected {
            if object["kind"] != "Namespace" {
                object["metadata"]["namespace"] = "egress-tracer".into();
            }
        }
        let there = checked(&deploy().join(kustomization), components);
        assert_eq!(there, expected, "{kustomization} {components:?} is not the chart with {values:?}");
    }
}

#[test]
fn every_profile_and_kind_of_monitoring_renders_valid_objects() {
    for name in PROFILES {
        let objects = checked_chart(&["--values", &profile(name).display().to_string()]);
        assert!(objects.iter().any(|object| object["kind"] == "DaemonSet"), "{name}");
    }
    for kind in ["podMonitor", "serviceMonitor", "annotations", "none"] {
        checked_chart(&["--set", &format!("monitoring.kind={kind}"), "--set", "dashboard.enabled=true"]);
    }
    for runtime in ["rke2", "microk8s", "k0s", "cri-dockerd", "bottlerocket"] {
        let objects = checked_chart(&["--set", &format!("runtime.profile={runtime}")]);
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        let spec = &daemon_set["spec"]["template"]["spec"];
        let path = spec["volumes"][1]["hostPath"]["path"].as_str().expect("a path");
        assert_eq!(spec["containers"][0]["volumeMounts"][1]["mountPath"], path, "{runtime}");
    }
}

#[test]
fn arguments_are_a_map_of_which_one_changes_alone() {
    let arguments = |args: &[&str]| {
        let objects = checked_chart(args);
        let daemon_set =
            objects.into_iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        daemon_set["spec"]["template"]["spec"]["containers"][0]["args"].clone()
    };
    assert_eq!(arguments(&[]), json!(["agent", "--no-explain"]));
    let values = [
        "--set",
        "explain=true",
        "--set",
        "namespaces={shop,!bank}",
        "--set-string",
        "podSelector=app in (cart\\,bill)",
        "--set",
        "args.deadline=5s",
        "--set",
        "args.keep=100000",
        "--set",
        "args.metrics-label={pod,authority}",
        "--set",
        "args.metrics-programs=true",
    ];
    let expected = json!([
        "agent",
        "-n",
        "shop",
        "-n",
        "!bank",
        "-l",
        "app in (cart,bill)",
        "--deadline=5s",
        "--keep=100000",
        "--metrics-label=pod",
        "--metrics-label=authority",
        "--metrics-programs"
    ]);
    assert_eq!(arguments(&values), expected);
    assert_eq!(
        arguments(&[&values[..], &["--set", "args.metrics-programs=false"]].concat())
            .as_array()
            .map(Vec::len),
        Some(11)
    );
}

#[test]
fn thresholds_and_namespace_reach_the_rules() {
    let text = helm_with(&[
        "template",
        "x",
        &chart().display().to_string(),
        "--namespace",
        "tracing",
        "--show-only",
        "templates/prometheusrule.yaml",
        "--set",
        "prometheusRule.enabled=true",
        "--set",
        "alerts.brokenShare=0.25",
        "--set",
        "alerts.keepFiringFor=3m",
        "--set",
        "alerts.manyNamespaces=7",
    ]);
    let rules = text.split_once("\nspec:\n").expect("a specification").1;
    let count = |what: &str| rules.matches(what).count();
    assert_eq!((count("> 0.25 # threshold brokenShare"), count(">= 7 # threshold manyNamespaces")), (1, 2));
    assert_eq!(count("threshold keepFiringFor"), count("keep_firing_for: 3m # threshold"));
    let commands = fs::read_to_string(chart().join("files/rules.yaml")).expect("the rules");
    let commands = commands.matches("kubectl -n egress-tracer ").count();
    assert!(commands > 10, "{commands} commands");
    assert_eq!((count("kubectl -n egress-tracer "), count("kubectl -n tracing ")), (0, commands));
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("rules.yaml");
    fs::write(&path, rules).expect("written");
    let output = Command::new("promtool").args(["check", "rules"]).arg(&path).output().expect("promtool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
