//! The command line's errors and exit codes: an exit code and one sentence on what was tried and what to do, never a
//! backtrace, although the tests set `RUST_BACKTRACE`. And how runs end.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{
    Envoy, Lab, Process, ProcessOutput, Script, TracerWatch, full_sidecar, proxy_addr, spawn_ready,
    tracer_binary,
};
use rustix::process::Signal;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(20);
const METRICS: &str = "127.0.0.1:9475";

/// An `egress-tracer` command among the lab's tools, with `RUST_BACKTRACE` set.
fn tracer(lab: &Lab, args: &[&str]) -> Command {
    let binary = tracer_binary().expect("a tracer");
    let mut command = lab.tools().command_at(&binary).expect("a command");
    command.env("RUST_BACKTRACE", "1").args(args);
    command
}

/// An `egress-tracer` command that `setpriv` starts with fewer privileges.
fn restricted(lab: &Lab, options: &[&str], args: &[&str]) -> Command {
    let program = tracer(lab, &[]).get_program().to_owned();
    let mut command = lab.tools().command("setpriv").expect("a command");
    command.env("RUST_BACKTRACE", "1").args(options).arg(program).args(args);
    command
}

fn run(command: Command) -> ProcessOutput {
    Process::run(command, &[], TIMEOUT).expect("it runs to its end")
}

fn observe<'a>(cgroup: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let cgroup = cgroup.to_str().expect("UTF-8");
    ["observe", "--standalone", "--cgroup", cgroup].into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn wrong_usage_exits_2() {
    let lab = Lab::new().expect("a lab");
    for (args, word) in [
        (vec!["observe", "--nonsense"], "--nonsense"),
        (vec!["nonsense"], "nonsense"),
        (vec!["observe", "--timeout", "soon"], "10s"),
        (vec!["observe", "--output", "xml"], "jsonpretty"),
        (vec!["observe", "--metrics-address", "here"], "--metrics-address"),
        (vec!["observe", "--fail-on", "rain"], "flagged"),
    ] {
        run(tracer(&lab, &args)).assert_error(2, &[word]);
    }
}

#[test]
fn errors_exit_1_with_one_sentence() {
    let lab = Lab::new().expect("a lab");
    let cgroup = lab.pod_cgroup();
    let nowhere = Path::new("/nowhere/at/all");
    run(tracer(&lab, &observe(nowhere, &[]))).assert_error(1, &["/nowhere/at/all", "cgroup v2"]);
    run(tracer(&lab, &observe(Path::new("/proc"), &[]))).assert_error(1, &["/proc", "cgroup v2"]);
    let file = cgroup.join("cgroup.procs");
    run(tracer(&lab, &observe(&file, &[]))).assert_error(1, &["cgroup.procs", "cgroup v2"]);
    let no_file = observe(cgroup, &["--ready-file", "/nowhere/ready"]);
    run(tracer(&lab, &no_file)).assert_error(1, &["/nowhere/ready", "ready file"]);
    let no_report = observe(cgroup, &["--report-file", "/nowhere/reports"]);
    run(tracer(&lab, &no_report)).assert_error(1, &["/nowhere/reports", "report file"]);
    let no_recording = observe(cgroup, &["--record", "/nowhere/recording"]);
    run(tracer(&lab, &no_recording)).assert_error(1, &["/nowhere/recording", "recording"]);
    run(tracer(&lab, &["replay", "/nowhere/recording"])).assert_error(1, &["/nowhere/recording"]);
    let no_recording = lab.dir().join("no-recording");
    std::fs::write(&no_recording, "\u{1b}[31mnot a recording\n").expect("written");
    let ended = run(tracer(&lab, &["replay", no_recording.to_str().expect("UTF-8")]));
    ended.assert_error(1, &["no-recording"]);
    assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
}

#[test]
fn log_and_errors_are_json_on_request() {
    let lab = Lab::new().expect("a lab");
    let args = ["--log-format", "json", "status", "--socket", "/nowhere/agent.sock"];
    let ended = run(tracer(&lab, &args));
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    let lines: Vec<Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("an error");
    assert_eq!((&last["level"], &last["target"]), (&"error".into(), &"egress_tracer".into()), "{last}");
    assert!(last["message"].as_str().is_some_and(|text| text.contains("/nowhere/agent.sock")), "{last}");

    // An agent logs what it keeps of its privileges before it is ready.
    let ready = lab.dir().join("ready");
    let cgroup = lab.pod_cgroup().display().to_string();
    let args =
        ["agent", "--log-format=json", "--log=info", "--no-explain", "--cgroup", &cgroup, "--ready-file"];
    let mut agent = tracer(&lab, &args);
    agent.arg(&ready);
    let agent = Process::spawn(agent, &[]).expect("an agent");
    let logged = agent.wait_line("line about privileges", agent.stderr(), TIMEOUT, |line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["message"].as_str().is_some_and(|text| text.starts_with("privileges:")).then(|| line.clone())
    });
    assert_eq!(logged.expect("it is logged")["level"], "info");
    agent.signal(Signal::TERM).expect("a signal");
    let ended = agent.finish(TIMEOUT).expect("it ends");
    assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
}

#[test]
fn busy_metrics_port_exits_1() {
    let lab = Lab::new().expect("a lab");
    let busy = lab.tools().netns().run(|| TcpListener::bind(METRICS)).expect("a thread").expect("a port");
    let args = observe(lab.pod_cgroup(), &["--metrics-address", METRICS]);
    run(tracer(&lab, &args)).assert_error(1, &[METRICS, "--metrics-address"]);
    let cgroup = lab.pod_cgroup().to_str().expect("UTF-8");
    let agent = ["agent", "--cgroup", cgroup, "--metrics-address", METRICS];
    run(tracer(&lab, &agent)).assert_error(1, &[METRICS, "--metrics-address"]);
    drop(busy);
}

#[test]
fn missing_privileges_exit_1() {
    let lab = Lab::new().expect("a lab");
    let args = observe(lab.pod_cgroup(), &[]);
    let other_user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    run(restricted(&lab, &other_user, &args)).assert_error(1, &["CAP_BPF"]);
    // With some capabilities the maps can be made, but the kernel refuses a program.
    let no_net = ["--bounding-set", "-net_admin,-sys_admin", "--inh-caps", "-net_admin,-sys_admin"];
    run(restricted(&lab, &no_net, &args))
        .assert_error(1, &["the kernel refused the cgroup hook", "egress-tracer check"]);
    let no_capability = ["--bounding-set", "-all", "--inh-caps", "-all"];
    run(restricted(&lab, &no_capability, &args)).assert_error(1, &["CAP_BPF"]);
}

/// Debian has no kernel without ring buffers (they came with 5.8; its oldest is 5.10). strace gives the tracer's real
/// call the answer of a kernel that does not know the map type:
/// <https://elixir.bootlin.com/linux/v5.7/source/kernel/bpf/syscall.c#L110>
#[test]
fn kernel_without_ring_buffers_exits_1() {
    let lab = Lab::new().expect("a lab");
    let cgroup = lab.pod_cgroup();
    let scope = cgroup.to_str().expect("UTF-8");
    let agent = vec!["agent", "--cgroup", scope, "--metrics-address", METRICS];
    for args in [observe(cgroup, &[]), observe(cgroup, &["--family", "cgroup"]), agent] {
        let log = lab.dir().join("bpf-calls");
        let mut command = lab.tools().command("strace").expect("a command");
        command.args(["-f", "-e", "inject=bpf:error=EINVAL:when=1", "-o"]).arg(&log);
        command.arg(tracer(&lab, &[]).get_program()).args(&args);
        let ended = run(command);
        let log = std::fs::read_to_string(log).expect("a log");
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("(INJECTED)")).collect();
        assert!(
            refused.len() == 1 && refused[0].contains("map_type=BPF_MAP_TYPE_RINGBUF"),
            "another call was refused: {log}"
        );
        ended.assert_error(1, &["this kernel has no ring buffers", "Linux 5.8"]);
        assert!(!ended.stderr.contains("CAP_"), "privileges are not the cause: {ended:?}");
    }
}

#[test]
fn observe_ends_with_timeout_first_and_fail_on() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let cgroup = lab.pod_cgroup();
    let ended = run(tracer(&lab, &observe(cgroup, &["--timeout", "200ms"])));
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), ""), "{ended:?}");
    let ended = run(tracer(&lab, &observe(cgroup, &["--timeout", "200ms", "--fail-on", "flagged"])));
    assert_eq!(ended.status.code(), Some(0), "nothing flagged was seen: {ended:?}");

    let flagged = Script::connect(proxy_addr(3128), "a.example:443");
    for (args, code) in [(&["--first", "1"][..], 0), (&["--first", "1", "--fail-on", "flagged"], 3)] {
        let ready = lab.dir().join(format!("ready-{code}"));
        let ready_file = ready.display().to_string();
        let mut all = observe(cgroup, &["-o", "json", "--ready-file", &ready_file]);
        all.extend(args);
        let process = spawn_ready(tracer(&lab, &all), &ready).expect("it gets ready");
        lab.play(&[flagged.clone(), flagged.clone()]).expect("transcripts");
        let ended = process.finish(TIMEOUT).expect("it ends by itself");
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
    }
    let watch = TracerWatch::start(&lab, &["--flagged"]).expect("the tracer");
    assert!(watch.into_tracer().stop().expect("ends on SIGINT").status.success());
}

#[test]
fn agent_serves_until_sigterm() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let ready = lab.dir().join("ready");
    let (cgroup, ready_file) = (lab.pod_cgroup().display().to_string(), ready.display().to_string());
    let args = ["agent", "--cgroup", &cgroup, "--metrics-address", METRICS, "--ready-file", &ready_file];
    let process = spawn_ready(tracer(&lab, &args), &ready).expect("it gets ready");
    let page = |path: &str| lab.tools().netns().http_get(&format!("http://{METRICS}{path}"));
    let health = |path: &str| lab.tools().netns().http_get(&format!("http://127.0.0.1:9476{path}"));
    assert_eq!(health("/healthz").expect("healthy"), "ok\n");
    assert_eq!(health("/readyz").expect("ready"), "ready\n");
    assert!(health("/nonsense").is_err() && page("/healthz").is_err());

    let flagged = Script::connect(proxy_addr(3128), "a.example:443");
    lab.play(&[flagged]).expect("a transcript");
    let line = process.stdout().wait(TIMEOUT, |lines| lines.first().cloned()).expect("a flagged report");
    assert!(line.contains("\"handled_as_http\""), "{line}");
    let metrics = page("/metrics").expect("metrics");
    let counted = metrics.lines().find(|line| line.starts_with("egress_tracer_connect_sessions_total{"));
    assert!(
        counted.is_some_and(|line| line.contains("route_not_found") && line.ends_with(" 1")),
        "{metrics}"
    );
    for name in
        ["egress_tracer_probe_attached{", "egress_tracer_build_info{", "process_resident_memory_bytes "]
    {
        assert!(metrics.contains(name), "no {name}: {metrics}");
    }
    process.signal(Signal::TERM).expect("a signal");
    let ended = process.finish(TIMEOUT).expect("it ends");
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
}

/// A process of the app that only waits.
fn waiting_app(lab: &Lab) -> Process {
    let mut command = lab.app().command("sleep").expect("a command");
    command.arg("600");
    Process::spawn(command, &[]).expect("an app")
}

const OTHER_USER: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
const NO_CAPABILITY: [&str; 4] = ["--bounding-set", "-all", "--inh-caps", "-all"];

#[test]
fn errors_name_their_cause() {
    let lab = Lab::new().expect("a lab");
    let cgroup = lab.pod_cgroup();
    let app = waiting_app(&lab);
    let pid = app.pid().to_string();

    // No root: not the kernel, and not a probe family.
    let ended = run(restricted(&lab, &OTHER_USER, &observe(cgroup, &[])));
    ended.assert_error(1, &["loading probes needs root (sudo)", "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"]);
    assert!(!ended.stderr.contains("famil"), "{ended:?}");
    let without_agent = ["observe", "--socket", "/nowhere/agent.sock"];
    run(restricted(&lab, &OTHER_USER, &without_agent))
        .assert_error(1, &["no agent listens at /nowhere/agent.sock", "needs root (sudo)"]);
    let ended = run(restricted(&lab, &NO_CAPABILITY, &observe(cgroup, &[])));
    ended.assert_error(1, &["needs CAP_BPF", "securityContext.capabilities.add"]);
    let ended = run(restricted(&lab, &OTHER_USER, &["check"]));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.contains("loading probes needs root (sudo)"), "{ended:?}");

    // One namespace too many, and one that is not there.
    let netns = ["--netns", "/proc/self/ns/net"].repeat(5);
    run(tracer(&lab, &observe(cgroup, &netns)))
        .assert_error(1, &["--netns can be given 4 times at most, and is given 5 times"]);
    run(tracer(&lab, &observe(cgroup, &["--netns", "/nowhere/net"])))
        .assert_error(1, &["cannot open the network namespace /nowhere/net"]);

    // A process that is gone, that may not be looked at, or that is in no pod.
    let explain = |pid: &'static str| ["explain", "--to", "10.0.0.1:3128", "--pid", pid];
    run(tracer(&lab, &explain("4194303"))).assert_error(1, &["there is no process 4194303"]);
    let explain_app = ["explain", "--to", "10.0.0.1:3128", "--pid", &pid];
    run(restricted(&lab, &["--reuid", "65533", "--clear-groups"], &explain_app))
        .assert_error(1, &[&pid, "needs root (sudo)"]);
    let ended = run(restricted(&lab, &NO_CAPABILITY, &explain_app));
    ended.assert_error(1, &["needs CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "leave --pid and --pod out"]);
    let ended = run(tracer(&lab, &explain_app));
    ended.assert_error(
        1,
        &["is in no pod, by its cgroup /", "cannot reach the sidecar's admin port (127.0.0.1:15000"],
    );

    // Names without a container runtime.
    for filter in [["-n", "shop"], ["-p", "cart"], ["-w", "cart"], ["-l", "app=cart"]] {
        run(tracer(
            &lab,
            &observe(cgroup, &[&filter[..], &["--runtime-endpoint", "/nowhere/cri.sock"]].concat()),
        ))
        .assert_error(1, &["cannot ask the container runtime at unix:///nowhere/cri.sock"]);
    }
    let pod =
        ["explain", "--to", "10.0.0.1:3128", "--pod", "shop/cart", "--runtime-endpoint", "/nowhere/cri.sock"];
    run(tracer(&lab, &pod)).assert_error(1, &["unix:///nowhere/cri.sock"]);
    drop(app);
}

#[test]
fn explain_of_the_own_network_namespace_needs_no_right() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let program = tracer(&lab, &[]).get_program().to_owned();
    // As an ephemeral container of the pod runs: in its network namespace, as any user.
    let mut command = lab.pod_root().command("setpriv").expect("a command");
    command.args(OTHER_USER).args(NO_CAPABILITY).arg(program).args(["explain", "--to", "10.0.0.1:3128"]);
    let ended = run(command);
    assert!(ended.status.success() && ended.stdout.contains("handled_as_http"), "{ended:?}");
}

#[test]
fn check_works_where_the_cgroups_are_mounted_read_only() {
    let lab = Lab::new().expect("a lab");
    let family = |ended: &ProcessOutput| {
        let found: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        found["families"]
            .as_array()
            .expect("families")
            .iter()
            .map(|one| one["works"].clone())
            .collect::<Vec<_>>()
    };
    let writable = run(tracer(&lab, &["check", "-o", "json"]));
    // As in the agent's own pod (deploy/base/daemonset.yaml).
    let script = "root=$(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/self/mounts) && \
                  mount -o remount,bind,ro \"$root\" && exec \"$0\" check -o json";
    let mut command = lab.tools().command("unshare").expect("a command");
    command.args(["--mount", "sh", "-c", script]).arg(tracer(&lab, &[]).get_program());
    let read_only = run(command);
    assert!(read_only.status.success(), "{read_only:?}");
    assert_eq!(family(&read_only), family(&writable));
}

#[test]
fn version_is_printed_by_every_command() {
    let lab = Lab::new().expect("a lab");
    for args in [&["-V"][..], &["--version"], &["version"], &["observe", "-V"], &["explain", "--version"]] {
        let ended = run(tracer(&lab, args));
        assert!(
            ended.status.success() && ended.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{args:?}: {ended:?}"
        );
    }
}
