//! The chart at a real API server, with Pod Security and GKE's quota rule in force and the custom resources defined. Helm installs,
//! upgrades, rolls back and uninstalls each profile, and the pods of the `DaemonSet` are awaited.

use std::path::Path;

use lab::{CHART_CRDS, Mesh, MeshOptions, Process, cached_helm, cached_mesh, helm};
use serde_json::json;

use super::TIMEOUT;
use crate::{PROFILES, chart, profile};

/// Kubernetes with GKE's rule for pods of critical priority, and with the definitions of the chart's custom resources.
fn cluster() -> Mesh {
    // https://cloud.google.com/kubernetes-engine/docs/troubleshooting/deployed-workloads
    let scopes = json!([{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical", "system-cluster-critical"]}]);
    let quota = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ResourceQuotaConfiguration",
        "limitedResources": [{"resource": "pods", "matchScopes": scopes}]});
    let admission = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": "ResourceQuota", "configuration": quota}]});
    let options = MeshOptions { without_istio: true, admission: Some(admission), ..MeshOptions::default() };
    let mesh = Mesh::start_with(options).expect("Kubernetes");
    for file in CHART_CRDS {
        let name = Path::new(file.path).file_name().expect("a file");
        let path = cached_helm().join(name).display().to_string();
        mesh.kubectl(&["apply", "--server-side", "-f", &path], "").expect("a definition");
    }
    mesh.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"], "")
        .expect("definitions");
    mesh
}

/// Runs Helm at the cluster.
fn helm_at(mesh: &Mesh, args: &[&str]) -> String {
    let home = mesh.dir().join("helm");
    let program = helm(&home).expect("Helm");
    let mut command = mesh.control().command_at(Path::new(program.get_program())).expect("Helm");
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("KUBECONFIG", mesh.kubeconfig()).args(args);
    Process::run_checked(command, &[], TIMEOUT).expect("Helm succeeds").stdout
}

/// Watches objects of a namespace with kubectl, and returns the first line that it prints.
fn watch(mesh: &Mesh, namespace: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut kubectl = mesh.control().command_at(&cached_mesh().join("kubectl"))?;
    kubectl.env("KUBECONFIG", mesh.kubeconfig()).args(["-n", namespace, "get", "--watch"]).args(args);
    let kubectl = Process::spawn(kubectl, &[])?;
    kubectl.wait_line("object", kubectl.stdout(), TIMEOUT, |line| Some(line.to_owned()))
}

/// The name of a pod that was made for the `DaemonSet`.
fn pod(mesh: &Mesh, namespace: &str) -> String {
    watch(mesh, namespace, &["pods", "-o", "name"]).unwrap_or_else(|error| {
        let events = mesh.kubectl(&["-n", namespace, "get", "events"], "");
        panic!("{namespace}: {error:#}: {events:?}")
    })
}

/// Why no pod could be made.
fn refusal(mesh: &Mesh, namespace: &str) -> String {
    let args = ["events", "--field-selector", "reason=FailedCreate", "-o", "jsonpath={.message}{\"\\n\"}"];
    watch(mesh, namespace, &args).unwrap_or_else(|error| panic!("{namespace}: {error:#}"))
}

fn make_namespace(mesh: &Mesh, name: &str, level: &str) {
    mesh.namespace(name).expect("a namespace");
    mesh.kubectl(&["label", "namespace", name, &format!("pod-security.kubernetes.io/enforce={level}")], "")
        .expect("a label");
}

#[test]
fn api_server_makes_the_pods_of_each_profile_where_the_profile_says_so() {
    let mesh = cluster();
    let chart = chart().display().to_string();
    let all = ["--set", "prometheusRule.enabled=true,dashboard.enabled=true"];
    for name in PROFILES {
        make_namespace(&mesh, name, "privileged");
        let values = profile(name).display().to_string();
        // Without GKE's rule the quota does no harm. With it, only a namespace with the quota gets pods.
        let quota = ["--set", "resourceQuota=true"];
        let install = ["install", "egress-tracer", &chart, "--namespace", name, "--values", &values];
        helm_at(&mesh, &[&install[..], &all, &quota].concat());
        let pod = pod(&mesh, name);
        assert!(pod.starts_with("pod/egress-tracer-"), "{pod}");
        let upgrade = ["upgrade", "egress-tracer", &chart, "--namespace", name, "--reuse-values"];
        helm_at(&mesh, &[&upgrade[..], &["--set", "explain=true"]].concat());
        let arguments = "jsonpath={.spec.template.spec.containers[0].args}";
        let arguments = ["-n", name, "get", "daemonset", "egress-tracer", "-o", arguments];
        assert_eq!(mesh.kubectl(&arguments, "").expect("arguments").trim(), r#"["agent"]"#);
        helm_at(&mesh, &["rollback", "egress-tracer", "1", "--namespace", name]);
        assert_eq!(mesh.kubectl(&arguments, "").expect("arguments").trim(), r#"["agent","--no-explain"]"#);
        helm_at(&mesh, &["uninstall", "egress-tracer", "--namespace", name]);
        let kinds = "daemonsets,networkpolicies,podmonitors,prometheusrules,resourcequotas";
        let left = ["-n", name, "get", kinds, "-o", "name"];
        assert_eq!(mesh.kubectl(&left, "").expect("what is left").trim(), "");
    }
    // And where it cannot be: at another level of Pod Security, and without the quota.
    for (namespace, level, set, why) in [
        ("baseline", "baseline", "resourceQuota=true", "violates PodSecurity \"baseline"),
        ("quota", "privileged", "resourceQuota=false", "insufficient quota to match these scopes"),
    ] {
        make_namespace(&mesh, namespace, level);
        helm_at(&mesh, &["install", "egress-tracer", &chart, "--namespace", namespace, "--set", set]);
        let refused = refusal(&mesh, namespace);
        assert!(refused.contains(why), "{namespace}: {refused}");
    }
    mesh.close().expect("it ends");
}
