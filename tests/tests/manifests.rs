//! The manifests of `deploy`: every overlay and component is valid, strictly, in the three newest minor versions of
//! Kubernetes, and the `DaemonSet` asks for no more than its documentation says.
//!
//! The package registries have no kustomize, so the script beside this file implements the parts that these manifests
//! use: resources, components, strategic merges, JSON patches, image names.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of a kustomization, checked against the schemas.
fn render(kustomization: &str, component: &[&str]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).arg(lab::cached_schemas()).arg(deploy().join(kustomization));
    command.args(component.iter().map(|component| deploy().join(component)));
    let output = command.output().expect("python3 (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{kustomization}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn every_overlay_is_valid_in_three_kubernetes_minor_versions() {
    let base = render("base", &[]);
    let kinds: Vec<&str> = base.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Namespace", "ServiceAccount", "DaemonSet", "PodMonitor", "NetworkPolicy"]);
    let annotated = render("overlays/annotations", &[]);
    assert!(of_kind(&annotated, "PodMonitor").is_empty());
    let daemon_set = of_kind(&annotated, "DaemonSet")[0];
    assert_eq!(daemon_set["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"], "9475");
    let confined = render("base", &["components/seccomp"]);
    let container = &of_kind(&confined, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"][0];
    let profile = &container["securityContext"]["seccompProfile"];
    assert_eq!(*profile, serde_json::json!({"type": "Localhost", "localhostProfile": "egress-tracer.json"}));
    let crio = render("base", &["components/crio"]);
    let mounts = &of_kind(&crio, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    assert_eq!(mounts[1]["mountPath"], "/run/crio");
}

/// A flood of the metrics port, which any pod may reach where no `NetworkPolicy` is enforced, must fail no health check.
#[test]
fn probes_use_a_port_of_their_own_that_no_other_pod_may_reach() {
    let base = render("base", &[]);
    let container = &of_kind(&base, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"][0];
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "health", "{probe}");
    }
    let policy = &of_kind(&base, "NetworkPolicy")[0]["spec"];
    let rules = policy["ingress"].as_array().expect("rules");
    let ports: Vec<&Value> = rules.iter().flat_map(|rule| rule["ports"].as_array().expect("ports")).collect();
    assert_eq!(ports, [&serde_json::json!({"port": "metrics"})]);
    assert!(rules.iter().all(|rule| rule["from"].is_array()), "a rule without `from` lets every pod in");
    assert_eq!((&policy["egress"], &policy["policyTypes"][1]), (&Value::Null, &"Egress".into()));
}

#[test]
fn daemon_set_asks_for_no_more_than_documented() {
    let document = std::fs::read_to_string(deploy().join("../docs/security.md")).expect("docs/security.md");
    let added = |objects: &[Value]| -> Vec<String> {
        let container = &of_kind(objects, "DaemonSet")[0]["spec"]["template"]["spec"]["containers"][0];
        let security = &container["securityContext"];
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert_eq!(
            (&security["privileged"], &security["allowPrivilegeEscalation"]),
            (&false.into(), &false.into())
        );
        assert_eq!(
            (&security["readOnlyRootFilesystem"], &security["seccompProfile"]["type"]),
            (&true.into(), &"RuntimeDefault".into())
        );
        let added = security["capabilities"]["add"].as_array().expect("a list");
        added.iter().filter_map(|name| Some(format!("CAP_{}", name.as_str()?))).collect()
    };
    let base = added(&render("base", &[]));
    assert_eq!(base, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    let explaining = added(&render("base", &["components/explain"]));
    assert_eq!(explaining[3..], ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
    for name in explaining {
        assert!(document.contains(&format!("| `{name}` |")), "docs/security.md says nothing of {name}");
    }
}
