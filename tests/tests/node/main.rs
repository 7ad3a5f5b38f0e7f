//! The agent on a node with a real container runtime: run from the built image, as a pod, with the security context of the
//! `DaemonSet`; its sessions are those of pods with a real Envoy each. The probes are attached to the cgroup of these pods.

mod containerd;
mod cri;
mod density;
mod events;
mod manifest;
mod stage;

use std::fs;
use std::time::Instant;

use containerd::Release;
use cri::PodSpec;
use k8s_cri::v1::{NamespaceMode, NamespaceOption};
use lab::{ATTACH_TYPES, Process, attached, case, demo_sidecar};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stage::{PATIENCE, SILENT, Stage};

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

/// Who a report is from: namespace, pod, container, workload.
fn source(report: &Value) -> [&str; 4] {
    ["namespace", "pod", "container", "workload"].map(|key| report["source"][key].as_str().unwrap_or("-"))
}

fn is_from(pod: &str) -> impl Fn(&Value) -> bool {
    move |report| report["source"]["pod"] == pod
}

#[test]
fn the_agent_names_pods_on_a_runtime_that_is_asked() {
    names_pods(Release::Installed);
}

#[test]
fn the_agent_names_pods_on_a_runtime_that_tells_of_changes() {
    names_pods(Release::TellsOfChanges);
}

fn names_pods(release: Release) {
    let start = Instant::now();
    let mut stage = Stage::build(release).expect("a node");
    println!("containerd, squid, a target: {:?}", start.elapsed());
    let cart = stage.meshed(&shop(), &demo_sidecar(), &[]).expect("a pod");
    let ledger = stage.meshed(&bank(), &case("c08_registry_only_no_listener"), &[]).expect("a pod");
    let agent = stage.agent("egress-tracer-1", &["--remember-pods", "3s"]).expect("an agent");
    // This one is younger than the agent.
    let front = stage.meshed(&web(), &case("c02_no_listener_allow_any"), &[]).expect("a pod");
    println!("three pods with their sidecars, and the agent: {:?}", start.elapsed());

    // Two pods that fail in different ways at once, and one that does not fail.
    for app in [&cart.app, &ledger.app, &front.app] {
        stage.curl(app).expect("curl runs");
    }
    let reports = stage.reports(&agent, 3, |_| true).expect("three reports");
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
        assert!((stage.count(&agent, sessions, &labels).expect("metrics") - 1.0).abs() < 0.1, "{labels:?}");
    }
    let misses = stage.count(&agent, "egress_tracer_enrichment_misses_total", &[]).expect("metrics");
    assert!(misses < 0.1, "{misses} misses");
    // Flagged sessions are lines of the agent's own log.
    let log = stage.cri.log("egress-tracer-1", "agent").expect("a log");
    assert!(log.iter().any(|line| line.contains("\"ledger-0\"")), "{log:?}");
    println!("named: {:?}", start.elapsed());
    holds_little(&agent, &log);

    explains_by_name(&mut stage);

    // The runtime is restarted under the agent: who comes later is named all the same.
    stage.restart_containerd().expect("containerd comes back");
    let gateway = PodSpec {
        namespace: "infra",
        name: "gateway-x2x4z",
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    let pod = stage.cri.run_pod(&gateway).expect("a pod");
    let config = stage.container(1000, vec!["sleep".to_owned(), "infinity".to_owned()]);
    let app = stage.cri.start(&pod, "proxy", stage_image(), config).expect("a container");
    stage.curl(&app).expect("curl runs");
    let reports = stage.reports(&agent, 1, is_from("gateway-x2x4z")).expect("a report");
    assert_eq!(source(&reports[0]), ["infra", "gateway-x2x4z", "proxy", "gateway"]);
    assert_eq!(
        (&reports[0]["verdict"], &reports[0]["source"]["kind"]),
        (&"direct".into(), &"host_network_pod".into())
    );
    println!("named after a restart of containerd: {:?}", start.elapsed());

    // A pod is deleted while its session is open.
    let late = PodSpec { name: "late-0", ..bank() };
    let dial = format!("curl -s -m 60 -x http://{SILENT} https://never.example/");
    let late = stage.meshed(&late, &case("c02_no_listener_allow_any"), &["sh", "-c", &dial]).expect("a pod");
    let waiting = |stage: &mut Stage| {
        // Whoever asks so often is turned away at times.
        let count = stage.count(&agent, "egress_tracer_sessions_active", &[]).unwrap_or_default();
        Ok((count > 0.5).then_some(()))
    };
    stage.wait_for("open session", waiting).expect("an open session");
    stage.cri.remove_pod(&late.pod).expect("deleted");
    let reports = stage.reports(&agent, 1, is_from("late-0")).expect("a report");
    assert_eq!(source(&reports[0]), ["bank", "late-0", "app", "books"]);
    // Which of its processes was killed first decides between these two; nobody is to blame for either.
    let verdict = reports[0]["verdict"].as_str().unwrap_or_default();
    assert!(["unanswered", "unreachable"].contains(&verdict), "{reports:?}");
    println!("named after its end: {:?}", start.elapsed());
    forgets_its_series(&mut stage, &agent);

    // The agent is killed under load, while a connection is open on which nothing was asked yet.
    let load = PodSpec { name: "load", labels: vec![("app", "load")], ..web() };
    let dials =
        "while :; do curl -s -k -o /dev/null -m 5 -x http://10.0.0.1:3128 https://www.example.com/; done";
    let _load = stage.meshed(&load, &case("c02_no_listener_allow_any"), &["sh", "-c", dials]).expect("a pod");
    let patient = PodSpec { name: "patient", labels: vec![("app", "patient")], ..web() };
    let waits = "exec 3<>/dev/tcp/10.0.0.1/3128; touch /shared/open; until [ -e /shared/go ]; do sleep 0.1; done; \
                 printf 'CONNECT late.example:443 HTTP/1.1\\r\\nHost: late.example:443\\r\\n\\r\\n' >&3; cat <&3";
    let _patient = stage.meshed(&patient, &demo_sidecar(), &["bash", "-c", waits]).expect("a pod");
    let shared = stage.lab.dir().join("shared");
    stage
        .wait_for("open connection", |_| Ok(shared.join("open").exists().then_some(())))
        .expect("a connection");
    stage.reports(&agent, 1, is_from("load")).expect("load");
    kill(&mut stage, &agent);

    // Pods that were not chosen are not looked at: they make no record, not even that a sidecar hung up in silence.
    let elsewhere = stage.agent("egress-tracer-2", &["-n", "elsewhere"]).expect("an agent");
    for app in [&cart.app, &ledger.app] {
        stage.curl(app).expect("curl runs");
    }
    only_asks(&mut stage, &elsewhere);
    kill(&mut stage, &elsewhere);

    // Counting goes on; what was open is marked; who declines is left alone, and so is who is not chosen.
    let agent = stage.agent("egress-tracer-3", &["-n", "!bank", "-l", "app notin (load)"]).expect("an agent");
    // With a choice, pods are traced from when the agent knows them, which may be after it is ready.
    let knows = |stage: &mut Stage| {
        stage.curl(&cart.app)?;
        Ok((stage.count(&agent, sessions, &[("source_workload", "cart")]).unwrap_or_default() > 0.5)
            .then_some(()))
    };
    stage.wait_for("pods that are known", knows).expect("the agent knows its pods");
    fs::write(shared.join("go"), "").expect("told to go on");
    let reports = stage.reports(&agent, 1, is_from("patient")).expect("a report");
    assert_eq!(source(&reports[0]), ["shop", "patient", "app", "patient"]);
    assert_eq!(reports[0]["joined_late"], true);
    let quiet = PodSpec {
        name: "quiet",
        labels: Vec::new(),
        annotations: vec![("egress-tracer.io/ignore", "true")],
        ..web()
    };
    let quiet = stage.meshed(&quiet, &demo_sidecar(), &[]).expect("a pod");
    for app in [&quiet.app, &ledger.app, &cart.app] {
        stage.curl(app).expect("curl runs");
    }
    stage.reports(&agent, 1, is_from("cart-7d9f8b6c5d-x2x4z")).expect("a report");
    let others = |report: &Value| {
        !["cart-7d9f8b6c5d-x2x4z", "patient"].map(Value::from).contains(&report["source"]["pod"])
    };
    let others = stage.reports(&agent, 0, others).expect("reports");
    assert!(others.is_empty(), "{others:?}");
    println!("scoped, killed and started again: {:?}", start.elapsed());
}

/// A pod that is chosen asks and never hangs up; of all others there is no record, and its own come after theirs.
fn only_asks(stage: &mut Stage, agent: &stage::Agent) {
    let spec = PodSpec {
        namespace: "elsewhere",
        name: "asks",
        namespaces: NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() },
        ..PodSpec::default()
    };
    // More than once: the agent may not know it yet.
    let asks = "for i in $(seq 100); do exec {fd}<>/dev/tcp/10.0.0.1/3128; sleep 0.2; \
                printf 'CONNECT www.example.com:443 HTTP/1.1\\r\\nHost: www.example.com:443\\r\\n\\r\\n' >&$fd; done; sleep infinity";
    let pod = stage.cri.run_pod(&spec).expect("a pod");
    let config = stage.container(1000, ["bash", "-c", asks].map(str::to_owned).to_vec());
    stage.cri.start(&pod, "app", stage_image(), config).expect("a container");
    let counted = |stage: &mut Stage| {
        let metrics = stage.metrics(agent).unwrap_or_default();
        let records = metrics.lines().filter(|line| line.starts_with("egress_tracer_records_total{"));
        let records: Vec<String> = records.map(str::to_owned).collect();
        Ok(records
            .iter()
            .any(|line| line.contains("\"request\"") && !line.ends_with(" 0"))
            .then_some(records))
    };
    let records = stage.wait_for("request", counted).expect("a request");
    assert!(records.len() > 3, "{records:?}");
    for line in records.iter().filter(|line| !line.contains("\"request\"")) {
        assert!(line.ends_with(" 0"), "{records:?}");
    }
    let others = |report: &Value| report["source"]["namespace"] != "elsewhere";
    assert!(stage.reports(agent, 0, others).expect("reports").is_empty());
    stage.cri.remove_pod(&pod).expect("deleted");
}

/// A deleted pod's series go once it is not remembered any more; those of others stay.
fn forgets_its_series(stage: &mut Stage, agent: &stage::Agent) {
    let of = |metrics: &str, pod: &str| {
        let sessions = |line: &&str| line.starts_with("egress_tracer_connect_sessions_total{");
        metrics.lines().filter(sessions).any(|line| line.contains(&format!("pod=\"{pod}\"")))
    };
    let before = stage.metrics(agent).expect("metrics");
    assert!(of(&before, "late-0") && of(&before, "ledger-0"), "{before}");
    let without = |stage: &mut Stage| {
        // Whoever asks so often is turned away at times.
        let metrics = stage.metrics(agent).unwrap_or_default();
        Ok((metrics.contains("sessions_total") && !of(&metrics, "late-0")).then_some(metrics))
    };
    let after = stage.wait_for("metrics without the pod that is gone", without).expect("its series go");
    assert!(of(&after, "ledger-0") && after.contains("egress_tracer_expired_series_total 1\n"), "{after}");
}

/// `explain --pod` finds the pod's sidecar through the runtime.
fn explains_by_name(stage: &mut Stage) {
    let mut command =
        stage.lab.tools().command_at(&lab::tracer_binary().expect("a tracer")).expect("a command");
    let pod = "shop/cart-7d9f8b6c5d-x2x4z";
    command.args(["explain", "--pod", pod, "--to", "10.0.0.1:3128", "-o", "json", "--runtime-endpoint"]);
    command.arg(stage.containerd.socket());
    let ended = Process::run_well(command, &[], PATIENCE).expect("an explanation");
    let explanation: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!((&explanation["listener"], &explanation["kind"]), (&"0.0.0.0_3128".into(), &"http".into()));
}

/// Ends an agent as nothing can be caught; the kernel takes its probes away.
fn kill(stage: &mut Stage, agent: &stage::Agent) {
    let pods = stage::pods(&stage.lab);
    assert_eq!(attached(&pods).len(), ATTACH_TYPES.len(), "{:?}", attached(&pods));
    let pid = i32::try_from(agent.pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::KILL).expect("killed");
    stage
        .wait_for("empty cgroup", |_| Ok(attached(&pods).is_empty().then_some(())))
        .expect("nothing stays attached");
}

fn stage_image() -> &'static str {
    containerd::HOST
}

/// It has given up what it needed to begin, on all of its threads, and says so.
fn holds_little(agent: &stage::Agent, log: &[String]) {
    assert!(log.iter().any(|line| line.contains("privileges: keeps none")), "{log:?}");
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid)).expect("its threads") {
        let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("a status");
        for (field, value) in [
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
            assert!(line.ends_with(value), "{line}");
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid)).expect("a status");
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let resident: u64 = resident.expect("its memory");
    println!("the agent, when little has happened: {resident} KiB resident (VmRSS)");
    assert!(resident < 25 << 10, "{resident} KiB");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", agent.pid)).expect("its mounts");
    assert!(mounts.lines().any(|line| line.contains(" / ") && line.contains(" ro,")), "{mounts}");
}
