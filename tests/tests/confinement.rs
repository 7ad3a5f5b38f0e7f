//! What the agent may do to the machine: its seccomp profile holds what it calls, and its memory is its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use lab::{Agent, Envoy, Lab, Process, Script, full_sidecar, proxy_addr, spawn_ready, tracer_binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_mins(1);

/// The system calls that the profile allows.
fn allowed() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/components/seccomp/egress-tracer.json");
    let profile: Value = serde_json::from_str(&fs::read_to_string(path).expect("a profile")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let groups = profile["syscalls"].as_array().expect("groups");
    let names = groups.iter().flat_map(|group| group["names"].as_array().expect("names"));
    names.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// Runs the agent through what it does on a node, with explanations and a reader, and compares each call.
#[test]
fn agent_makes_only_the_system_calls_that_its_seccomp_profile_allows() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let (log, ready) = (lab.dir().join("calls"), lab.dir().join("ready"));
    let mut command = lab.tools().command("strace").expect("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).arg(tracer_binary().expect("a binary"));
    command.args(["agent", "--metrics-address", "127.0.0.1:9475", "--cgroup"]).arg(lab.pod_cgroup());
    command.arg("--ready-file").arg(&ready);
    let strace = spawn_ready(command, &ready).expect("it gets ready");
    let agent = fs::read_to_string(&ready).expect("its process id");
    let flagged = Script::connect(proxy_addr(3128), "a.example:443");
    lab.play(&[flagged]).expect("a transcript");
    strace.stdout().wait(TIMEOUT, |lines| lines.first().cloned()).expect("a flagged report");
    for url in ["http://127.0.0.1:9475/metrics", "http://127.0.0.1:9476/healthz"] {
        lab.tools().netns().http_get(url).expect("a page");
    }
    Agent::status(&lab).expect("a status");
    let agent = agent.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(agent, Signal::TERM).expect("a signal");
    assert!(strace.finish(TIMEOUT).expect("it ends").status.success());
    let log = fs::read_to_string(log).expect("a log");
    let called: BTreeSet<String> = log
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(name, _)| name.to_owned())
        .filter(|name| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        })
        .collect();
    assert!(called.len() > 30 && called.contains("bpf"), "{called:?}");
    let allowed = allowed();
    let refused: Vec<&String> = called.difference(&allowed).collect();
    assert!(refused.is_empty(), "the profile does not allow {refused:?}");
    for dangerous in ["ptrace", "mount", "process_vm_readv", "init_module", "kexec_load", "unshare"] {
        assert!(!allowed.contains(dangerous), "{dangerous}");
    }
}

#[test]
fn agent_writes_no_core_file_and_cannot_be_traced_without_a_capability() {
    let lab = Lab::new().expect("a lab");
    let agent = Agent::start(&lab, &["--no-explain"]).expect("an agent");
    let process = format!("/proc/{}", agent.process().pid());
    let limits = fs::read_to_string(format!("{process}/limits")).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let mut command = lab.tools().command("setpriv").expect("a command");
    // Since Linux 6.16, CAP_PERFMON may read it, too, which CAP_SYS_ADMIN includes: `may_access_mm` in
    // https://elixir.bootlin.com/linux/v6.18/source/kernel/fork.c
    let without = "-sys_ptrace,-perfmon,-sys_admin";
    command.args(["--bounding-set", without, "--inh-caps", without, "cat"]).arg(format!("{process}/environ"));
    let read = Process::run(command, &[], TIMEOUT).expect("it runs");
    assert!(
        !read.status.success() && read.stdout.is_empty(),
        "root without these capabilities read it: {read:?}"
    );
    let status = fs::read_to_string(format!("{process}/status")).expect("its status");
    for field in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    assert!(agent.stop().expect("it stops").status.success());
}
