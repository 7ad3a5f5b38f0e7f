//! The agent on a node with a real container runtime: started from the built image, as a pod with the `DaemonSet`'s
//! security context. The sessions are those of pods with a real Envoy each. The probes are attached to the cgroup of
//! these pods.

mod containerd;
mod cri;
mod density;
mod events;
mod manifest;
mod test_node;

use std::fs;
use std::time::Instant;

use containerd::{ContainerdRelease, HOST};
use cri::PodSpec;
use k8s_cri::v1::{NamespaceMode, NamespaceOption};
use lab::{ATTACH_TYPES, Process, attached_programs, case_dir, demo_sidecar, process_memory_kb};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use test_node::{AgentPod, SILENT, TIMEOUT, TestNode};

fn shop() -> PodSpec {
    PodSpec {
        namespace: "shop",
        name: "cart-7d9f8b6c5d-x2x4z",
        labels: vec![("app", "cart"), ("pod-template-hash", "7d9f8b6c5d")],
        ..PodSpec::default()
    }
}

fn bank() -> PodSpec {
    PodSpec {
        namespace: "bank",
        name: "ledger-0",
        labels: vec![("app", "ledger"), ("service.istio.io/canonical-name", "books")],
        ..PodSpec::default()
    }
}

fn web() -> PodSpec {
    PodSpec { namespace: "shop", name: "front", labels: vec![("app", "front")], ..PodSpec::default() }
}

/// The source of a report: namespace, pod, container, workload.
fn source(report: &Value) -> [&str; 4] {
    ["namespace", "pod", "container", "workload"].map(|key| report["source"][key].as_str().unwrap_or("-"))
}

fn is_from(pod: &str) -> impl Fn(&Value) -> bool {
    move |report| report["source"]["pod"] == pod
}

#[test]
fn agent_names_pods_of_a_runtime_that_is_polled() {
    check_pod_names(ContainerdRelease::Installed);
}

#[test]
fn agent_names_pods_of_a_runtime_that_streams_events() {
    check_pod_names(ContainerdRelease::StreamsEvents);
}

fn check_pod_names(release: ContainerdRelease) {
    let start = Instant::now();
    let mut node = TestNode::build(release).expect("a node");
    println!("containerd, squid, a target: {:?}", start.elapsed());
    let cart = node.meshed(&shop(), &demo_sidecar(), &[]).expect("a pod");
    let ledger = node.meshed(&bank(), &case_dir("c08_registry_only_no_listener"), &[]).expect("a pod");
    let agent = node.agent("egress-tracer-1", &["--remember-pods", "3s"]).expect("an agent");
    // This pod starts after the agent.
    let front = node.meshed(&web(), &case_dir("c02_no_listener_allow_any"), &[]).expect("a pod");
    println!("three pods with their sidecars, and the agent: {:?}", start.elapsed());

    // Two pods fail in different ways, and one does not fail.
    for app in [&cart.app, &ledger.app, &front.app] {
        node.curl(app).expect("curl runs");
    }
    let reports = node.reports(&agent, 3, |_| true).expect("three reports");
    let of = |verdict: &str| {
        reports
            .iter()
            .find(|report| report["verdict"] == verdict)
            .unwrap_or_else(|| panic!("{verdict}: {reports:?}"))
    };
    assert_eq!(source(of("handled_as_http")), ["shop", "cart-7d9f8b6c5d-x2x4z", "app", "cart"]);
    assert_eq!(source(of("blackholed")), ["bank", "ledger-0", "app", "books"]);
    assert_eq!(source(of("tunneled")), ["shop", "front", "app", "front"]);
    for report in &reports {
        assert_eq!((&report["source"]["kind"], &report["source"]["injected"]), (&"pod".into(), &true.into()));
        assert_eq!(report["node"], "node-1");
    }
    let sessions = "egress_tracer_connect_sessions_total";
    for labels in [
        [("verdict", "handled_as_http"), ("source_namespace", "shop"), ("source_workload", "cart")],
        [("verdict", "blackholed"), ("source_namespace", "bank"), ("source_workload", "books")],
        [("verdict", "tunneled"), ("source_namespace", "shop"), ("source_workload", "front")],
    ] {
        assert!((node.count(&agent, sessions, &labels).expect("metrics") - 1.0).abs() < 0.1, "{labels:?}");
    }
    let misses = node.count(&agent, "egress_tracer_enrichment_misses_total", &[]).expect("metrics");
    assert!(misses < 0.1, "{misses} misses");
    // Flagged sessions are lines of the agent's log.
    let log = node.cri.log("egress-tracer-1", "agent").expect("a log");
    assert!(log.iter().any(|line| line.contains("\"ledger-0\"")), "{log:?}");
    println!("named: {:?}", start.elapsed());
    check_privileges_and_memory(&agent, &log);

    check_explain_by_pod_name(&mut node);

    // The runtime ends, which the metrics say, and starts again; pods that start later are still named.
    wait_for_runtime(&mut node, &agent, 1.0);
    node.containerd.stop().expect("containerd ends");
    wait_for_runtime(&mut node, &agent, 0.0);
    node.start_containerd().expect("containerd comes back");
    wait_for_runtime(&mut node, &agent, 1.0);
    let gateway = PodSpec {
        namespace: "infra",
        name: "gateway-x2x4z",
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    let pod = node.cri.run_pod(&gateway).expect("a pod");
    let config = node.container(1000, vec!["sleep".to_owned(), "infinity".to_owned()]);
    let app = node.cri.start(&pod, "proxy", HOST, config).expect("a container");
    node.curl(&app).expect("curl runs");
    let reports = node.reports(&agent, 1, is_from("gateway-x2x4z")).expect("a report");
    assert_eq!(source(&reports[0]), ["infra", "gateway-x2x4z", "proxy", "gateway"]);
    assert_eq!(
        (&reports[0]["verdict"], &reports[0]["source"]["kind"]),
        (&"direct".into(), &"host_network_pod".into())
    );
    println!("named after a restart of containerd: {:?}", start.elapsed());

    // A pod is deleted while its session is open.
    let late = PodSpec { name: "late-0", ..bank() };
    let dial = format!("curl -s -m 60 -x http://{SILENT} https://never.example/");
    let late =
        node.meshed(&late, &case_dir("c02_no_listener_allow_any"), &["sh", "-c", &dial]).expect("a pod");
    let waiting = |node: &mut TestNode| {
        // The agent limits the rate of requests, so a scrape may fail.
        let count = node.count(&agent, "egress_tracer_sessions_active", &[]).unwrap_or_default();
        Ok((count > 0.5).then_some(()))
    };
    node.wait_for("open session", waiting).expect("an open session");
    node.cri.remove_pod(&late.pod).expect("deleted");
    let reports = node.reports(&agent, 1, is_from("late-0")).expect("a report");
    assert_eq!(source(&reports[0]), ["bank", "late-0", "app", "books"]);
    // The order in which its processes are killed decides between these two.
    let verdict = reports[0]["verdict"].as_str().unwrap_or_default();
    assert!(["unanswered", "unreachable"].contains(&verdict), "{reports:?}");
    println!("named after its end: {:?}", start.elapsed());
    check_series_of_a_deleted_pod_expire(&mut node, &agent);

    // The agent is killed under load, while a connection is open that has sent no request.
    let load = PodSpec { name: "load", labels: vec![("app", "load")], ..web() };
    let dials =
        "while :; do curl -s -k -o /dev/null -m 5 -x http://10.0.0.1:3128 https://www.example.com/; done";
    let _load =
        node.meshed(&load, &case_dir("c02_no_listener_allow_any"), &["sh", "-c", dials]).expect("a pod");
    let patient = PodSpec { name: "patient", labels: vec![("app", "patient")], ..web() };
    let waits = "exec 3<>/dev/tcp/10.0.0.1/3128; touch /shared/open; until [ -e /shared/go ]; do sleep 0.1; done; \
                 printf 'CONNECT late.example:443 HTTP/1.1\\r\\nHost: late.example:443\\r\\n\\r\\n' >&3; cat <&3";
    let _patient = node.meshed(&patient, &demo_sidecar(), &["bash", "-c", waits]).expect("a pod");
    let shared = node.lab.dir().join("shared");
    node.wait_for("open connection", |_| Ok(shared.join("open").exists().then_some(())))
        .expect("a connection");
    node.reports(&agent, 1, is_from("load")).expect("load");
    kill_agent(&mut node, &agent);

    // Pods that do not match the selector make no record, not even of connections that their sidecar closes silently.
    let elsewhere = node.agent("egress-tracer-2", &["-n", "elsewhere"]).expect("an agent");
    for app in [&cart.app, &ledger.app] {
        node.curl(app).expect("curl runs");
    }
    check_only_chosen_pods_make_records(&mut node, &elsewhere);
    kill_agent(&mut node, &elsewhere);

    // The next agent counts on, marks the open connection, and skips pods that opted out or do not match.
    let agent = node.agent("egress-tracer-3", &["-n", "!bank", "-l", "app notin (load)"]).expect("an agent");
    // With a selector, pods are traced when the agent knows them, which may be after it is ready.
    let knows = |node: &mut TestNode| {
        node.curl(&cart.app)?;
        Ok((node.count(&agent, sessions, &[("source_workload", "cart")]).unwrap_or_default() > 0.5)
            .then_some(()))
    };
    node.wait_for("pods that are known", knows).expect("the agent knows its pods");
    fs::write(shared.join("go"), "").expect("told to go on");
    let reports = node.reports(&agent, 1, is_from("patient")).expect("a report");
    assert_eq!(source(&reports[0]), ["shop", "patient", "app", "patient"]);
    assert_eq!(reports[0]["joined_late"], true);
    let quiet = PodSpec {
        name: "quiet",
        labels: Vec::new(),
        annotations: vec![("egress-tracer.io/ignore", "true")],
        ..web()
    };
    let quiet = node.meshed(&quiet, &demo_sidecar(), &[]).expect("a pod");
    for app in [&quiet.app, &ledger.app, &cart.app] {
        node.curl(app).expect("curl runs");
    }
    node.reports(&agent, 1, is_from("cart-7d9f8b6c5d-x2x4z")).expect("a report");
    let others = |report: &Value| {
        !["cart-7d9f8b6c5d-x2x4z", "patient"].map(Value::from).contains(&report["source"]["pod"])
    };
    let others = node.reports(&agent, 0, others).expect("reports");
    assert!(others.is_empty(), "{others:?}");
    println!("scoped, killed and started again: {:?}", start.elapsed());
}

/// Waits until the agent's metric about the container runtime is `connected`.
fn wait_for_runtime(node: &mut TestNode, agent: &AgentPod, connected: f64) {
    let says = |node: &mut TestNode| {
        // The agent limits the rate of requests, so a scrape may fail.
        let value = node.count(agent, "egress_tracer_runtime_connected", &[]).unwrap_or(f64::NAN);
        Ok(((value - connected).abs() < 0.1).then_some(()))
    };
    node.wait_for("metric about the runtime", says).expect("the runtime's state");
}

/// A matching pod sends requests and never closes; all other pods make no record. Its requests come after theirs, so
/// its record proves that theirs are missing.
fn check_only_chosen_pods_make_records(node: &mut TestNode, agent: &AgentPod) {
    let spec = PodSpec {
        namespace: "elsewhere",
        name: "asks",
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    // Several requests: the agent may not know the pod yet.
    let asks = "for i in $(seq 100); do exec {fd}<>/dev/tcp/10.0.0.1/3128; sleep 0.2; \
                printf 'CONNECT www.example.com:443 HTTP/1.1\\r\\nHost: www.example.com:443\\r\\n\\r\\n' >&$fd; done; sleep infinity";
    let pod = node.cri.run_pod(&spec).expect("a pod");
    let config = node.container(1000, ["bash", "-c", asks].map(str::to_owned).to_vec());
    node.cri.start(&pod, "app", HOST, config).expect("a container");
    let counted = |node: &mut TestNode| {
        let metrics = node.metrics(agent)?;
        let records = metrics.lines().filter(|line| line.starts_with("egress_tracer_records_total{"));
        let records: Vec<String> = records.map(str::to_owned).collect();
        Ok(records
            .iter()
            .any(|line| line.contains("\"request\"") && !line.ends_with(" 0"))
            .then_some(records))
    };
    let records = node.wait_for("request", counted).expect("a request");
    assert!(records.len() > 3, "{records:?}");
    for line in records.iter().filter(|line| !line.contains("\"request\"")) {
        assert!(line.ends_with(" 0"), "{records:?}");
    }
    let others = |report: &Value| report["source"]["namespace"] != "elsewhere";
    assert!(node.reports(agent, 0, others).expect("reports").is_empty());
    node.cri.remove_pod(&pod).expect("deleted");
}

/// A deleted pod's series expire; other pods' series stay.
fn check_series_of_a_deleted_pod_expire(node: &mut TestNode, agent: &AgentPod) {
    let of = |metrics: &str, pod: &str| {
        let sessions = |line: &&str| line.starts_with("egress_tracer_connect_sessions_total{");
        metrics.lines().filter(sessions).any(|line| line.contains(&format!("pod=\"{pod}\"")))
    };
    // The agent limits the rate of requests, so a scrape may fail.
    let before = node.wait_for("metrics", |node| Ok(node.metrics(agent).ok())).expect("metrics");
    assert!(of(&before, "late-0") && of(&before, "ledger-0"), "{before}");
    let without = |node: &mut TestNode| {
        let metrics = node.metrics(agent)?;
        Ok((metrics.contains("sessions_total") && !of(&metrics, "late-0")).then_some(metrics))
    };
    let after = node.wait_for("metrics without the pod that is gone", without).expect("its series go");
    assert!(of(&after, "ledger-0") && after.contains("egress_tracer_expired_series_total 1\n"), "{after}");
}

/// `explain --pod` finds the pod's sidecar through the runtime.
fn check_explain_by_pod_name(node: &mut TestNode) {
    let mut command =
        node.lab.tools().command_at(&lab::tracer_binary().expect("a tracer")).expect("a command");
    let pod = "shop/cart-7d9f8b6c5d-x2x4z";
    command.args(["explain", "--pod", pod, "--to", "10.0.0.1:3128", "-o", "json", "--runtime-endpoint"]);
    command.arg(node.containerd.socket());
    let ended = Process::run_checked(command, &[], TIMEOUT).expect("an explanation");
    let explanation: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&explanation["listener"], &explanation["kind"]), (&"0.0.0.0_3128".into(), &"http".into()));
}

/// Kills an agent with SIGKILL; the kernel detaches its probes.
fn kill_agent(node: &mut TestNode, agent: &AgentPod) {
    let pods = test_node::pods(&node.lab);
    assert_eq!(attached_programs(&pods).len(), ATTACH_TYPES.len(), "{:?}", attached_programs(&pods));
    let pid = i32::try_from(agent.pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::KILL).expect("killed");
    node.wait_for("empty cgroup", |_| Ok(attached_programs(&pods).is_empty().then_some(())))
        .expect("nothing stays attached");
}

/// The agent has dropped its capabilities on all threads and logs so.
fn check_privileges_and_memory(agent: &AgentPod, log: &[String]) {
    assert!(log.iter().any(|line| line.contains("privileges: keeps none")), "{log:?}");
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid)).expect("its threads") {
        let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("a status");
        for (field, value) in [
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
            assert!(line.ends_with(value), "{line}");
        }
    }
    let resident = process_memory_kb(agent.pid, "VmRSS").expect("the agent's memory");
    println!("the agent after few sessions: {resident} KiB resident (VmRSS)");
    assert!(resident < 25 << 10, "{resident} KiB");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", agent.pid)).expect("its mounts");
    assert!(mounts.lines().any(|line| line.contains(" / ") && line.contains(" ro,")), "{mounts}");
}
