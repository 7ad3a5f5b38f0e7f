//! A peer that is stopped, dead or silent: each command ends within three seconds, with a sentence that names the peer. Ctrl-C
//! and SIGTERM end a command at once, whatever it waits for.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use lab::{Agent, Behavior, Lab, Process, ProcessOutput, ScriptedProxy, Terminal, proxy_addr, tracer_binary};
use rustix::process::Signal;

/// Within so long a command ends, whatever its peer does.
const LIMIT: Duration = Duration::from_secs(3);
/// Within so long it ends on a signal: less than it waits for a peer.
const AT_ONCE: Duration = Duration::from_secs(1);

fn run(lab: &Lab, args: &[&str]) -> (ProcessOutput, Duration) {
    let begun = Instant::now();
    let ended = Process::run(Agent::command(lab, args).expect("a command"), &[], Duration::from_secs(30));
    (ended.expect("it ends"), begun.elapsed())
}

#[track_caller]
fn assert_ends(lab: &Lab, args: &[&str], words: &[&str]) {
    let (ended, took) = run(lab, args);
    ended.assert_error(1, words);
    assert!(took < LIMIT, "{args:?} took {took:?}");
}

/// A socket in the agent's place that is connected and never answered.
fn silent_agent(lab: &Lab) -> UnixListener {
    let socket = Agent::socket(lab);
    fs::create_dir_all(socket.parent().expect("a directory")).expect("made");
    UnixListener::bind(socket).expect("a socket")
}

/// A process of the app that only waits.
fn app(lab: &Lab) -> Process {
    let mut command = lab.app().command("sleep").expect("a command");
    command.arg("600");
    Process::spawn(command, &[]).expect("an app")
}

#[test]
fn commands_name_an_agent_that_does_not_answer() {
    let lab = Lab::new().expect("a lab");
    let listener = silent_agent(&lab);
    let words = ["the agent at", "run/agent.sock", "answers nothing within 2 s"];
    for args in [&["observe"][..], &["observe", "--last", "5"], &["status"]] {
        assert_ends(&lab, args, &words);
    }
    let binary = tracer_binary().expect("a tracer");
    let begun = Instant::now();
    let mut top = Terminal::start(lab.tools(), &binary, &["top"], (24, 200), &[]).expect("a terminal");
    assert_eq!(top.wait_end().expect("it ends").status.code(), Some(1));
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    top.wait_text("answers nothing within 2 s").expect("the reason");
    // An audit goes on without the agent's sessions.
    let (ended, took) =
        run(&lab, &["audit", "--to", "10.0.0.1:3128", "--cgroup", &lab.pod_cgroup().display().to_string()]);
    assert!(ended.stderr.contains("run/agent.sock") && took < LIMIT, "{took:?}: {ended:?}");
    drop(listener);
}

#[test]
fn commands_say_that_the_agent_is_stopped() {
    let lab = Lab::new().expect("a lab");
    let agent = Agent::start(&lab, &[]).expect("an agent");
    agent.process().signal(Signal::STOP).expect("a signal");
    let who = format!("process {}", agent.process().pid());
    for args in [&["observe"][..], &["status"]] {
        assert_ends(&lab, args, &[&who, "it is stopped (SIGSTOP)"]);
    }
    agent.process().signal(Signal::CONT).expect("a signal");
    Agent::status(&lab).expect("it answers again");
    assert!(agent.stop().expect("it ends").status.success());
}

#[test]
fn signals_end_a_command_that_waits_for_an_agent() {
    let lab = Lab::new().expect("a lab");
    let listener = silent_agent(&lab);
    for signal in [Signal::INT, Signal::TERM] {
        let command = Agent::command(&lab, &["observe"]).expect("a command");
        let process = Process::spawn(command, &[]).expect("it starts");
        let _connection = listener.accept().expect("it connects");
        let begun = Instant::now();
        process.signal(signal).expect("a signal");
        let ended = process.finish(LIMIT).expect("it ends");
        assert!(ended.status.success() && begun.elapsed() < AT_ONCE, "{:?}: {ended:?}", begun.elapsed());
    }
    let binary = tracer_binary().expect("a tracer");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut top = Terminal::start(lab.tools(), &binary, &["top"], (24, 80), &[]).expect("a terminal");
        let _connection = listener.accept().expect("it connects");
        let begun = Instant::now();
        top.signal(signal).expect("a signal");
        assert!(top.wait_end().expect("it ends").status.success());
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert!(top.is_cooked().expect("a terminal"), "the line is raw");
    }
}

#[test]
fn commands_name_a_container_runtime_that_does_not_answer() {
    let lab = Lab::new().expect("a lab");
    let cgroup = lab.pod_cgroup().display().to_string();
    let silent = lab.dir().join("silent-cri.sock");
    let _listener = UnixListener::bind(&silent).expect("a socket");
    let dead = lab.dir().join("dead-cri.sock");
    drop(UnixListener::bind(&dead).expect("a socket"));
    for (socket, words) in [(&silent, "does not answer within 2 s"), (&dead, "Connection refused")] {
        let socket = socket.display().to_string();
        let words = ["cannot ask the container runtime at unix://", &socket, words];
        let pod = ["--pod", "shop/cart", "--to", "10.0.0.1:3128", "--runtime-endpoint", &socket];
        assert_ends(&lab, &[&["explain"][..], &pod].concat(), &words);
        assert_ends(&lab, &[&["probe"][..], &pod].concat(), &words);
        let observe = ["observe", "--cgroup", &cgroup, "-n", "shop", "--runtime-endpoint", &socket];
        assert_ends(&lab, &observe, &words);
        let (ended, took) = run(
            &lab,
            &["audit", "--to", "10.0.0.1:3128", "--cgroup", &cgroup, "--runtime-endpoint", &socket],
        );
        assert!(ended.stderr.contains(&socket) && took < LIMIT, "{took:?}: {ended:?}");
    }
}

#[test]
fn commands_name_an_admin_port_that_is_closed_or_silent() {
    let lab = Lab::new().expect("a lab");
    let app = app(&lab);
    let pid = app.pid().to_string();
    let explain = ["explain", "--pid", &pid, "--to", "10.0.0.1:3128"];
    assert_ends(
        &lab,
        &explain,
        &["cannot reach the sidecar's admin port (127.0.0.1:15000: Connection refused"],
    );

    let _proxy = ScriptedProxy::start(&lab, proxy_addr(3128), Behavior::Tunnel).expect("a proxy");
    let bind = || TcpListener::bind("127.0.0.1:15000");
    let _silent = lab.pod_root().netns().run(bind).expect("a thread").expect("a port");
    let words = "http://127.0.0.1:15000 accepts a connection and answers nothing within 2 s";
    assert_ends(&lab, &explain, &[words]);
    let (ended, took) = run(&lab, &["audit", "--pid", &pid, "--to", "10.0.0.1:3128"]);
    assert!(
        format!("{}{}", ended.stdout, ended.stderr).contains("127.0.0.1:15000") && took < LIMIT,
        "{took:?}: {ended:?}"
    );
    let cgroup = lab.pod_cgroup().display().to_string();
    let probe =
        ["probe", "--standalone", "--cgroup", &cgroup, "--pid", &pid, "--to", "10.0.0.1:3128", "-o", "json"];
    let (ended, took) = run(&lab, &probe);
    assert!(ended.stdout.contains(words) && took < LIMIT, "{took:?}: {ended:?}");
}
