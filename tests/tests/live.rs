//! The agent's live stream, read by the real `observe` and `status`: their output, their errors, slow readers, and the
//! delay until a line is on a terminal.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use lab::{
    Agent, Behavior, Envoy, Lab, Process, Script, ScriptedProxy, full_sidecar, line_latencies, proxy_addr,
};
use rustix::process::Signal;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_mins(1);
const HTTP: u16 = 3128;
const TCP: u16 = 3129;

fn reports(process: &Process, count: usize) -> Vec<Value> {
    let lines = process.stdout().wait(TIMEOUT, |lines| (lines.len() >= count).then(|| lines.to_vec()));
    let lines = lines.unwrap_or_else(|| panic!("{count} lines: {:?}", process.stdout().all()));
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn observe_and_status_read_from_the_agent() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy");
    let agent = Agent::start(&lab, &["--node", "node-1"]).expect("an agent");
    let mode = |path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!((mode(Agent::socket(&lab)), mode(lab.dir().join("run"))), (0o600, 0o700));

    let all = Agent::observe(&lab, &["-o", "json"]).expect("a reader");
    let flagged = Agent::observe(&lab, &["-o", "json", "--flagged", "--first", "1", "--fail-on", "flagged"]);
    let flagged = flagged.expect("a reader");
    lab.play(&[Script::connect(proxy_addr(TCP), "a.example:443")]).expect("a tunnel");
    lab.play(&[Script::connect(proxy_addr(HTTP), "b.example:443")]).expect("a 404");
    let verdicts: Vec<Value> = reports(&all, 2).iter().map(|report| report["verdict"].clone()).collect();
    assert_eq!(verdicts, ["tunneled", "handled_as_http"]);
    let ended = flagged.finish(TIMEOUT).expect("it ends by itself");
    assert_eq!((ended.status.code(), ended.stdout.lines().count()), (Some(3), 1), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(report["listener"]["name"], "0.0.0.0_3128", "the agent explains: {report}");
    assert!(report["manifest"].as_str().is_some_and(|manifest| manifest.contains("kind: ServiceEntry")));

    // Past reports, in each format, with filters that the agent applies.
    for (args, words, lines) in [
        (&["--last", "5"][..], &["RESULT", "  200 by proxy", "tunneled", "✗ 404 by sidecar"][..], 3),
        (&["--last", "1", "-o", "table"], &["VERDICT", "✗ 404 by sidecar", "route_not_found"], 2),
        (&["--since", "1h", "--verdict", "!handled_as_http"], &["tunneled"], 2),
        (&["--until", "1h"], &[], 0),
        (&["--last", "1", "--print-node-name"], &["NODE", "node-1"], 2),
        (&["--last", "1", "--authority", "a.*,b.*", "--http-status", "2+,5+"], &["a.example:443"], 2),
        (&["--last", "1", "--to", "10.0.0.9"], &[], 0),
        (
            &["--last", "1", "--explain"],
            &["──✗ 10.0.0.1:3128", "at fault: ", "kind: ServiceEntry", "whole: "],
            14,
        ),
    ] {
        let all: Vec<&str> = ["observe"].iter().chain(args).copied().collect();
        let ended = Agent::run(&lab, &all).expect("it ends by itself");
        assert!(ended.status.success() && ended.stdout.lines().count() == lines, "{args:?}: {ended:?}");
        for word in words {
            assert!(ended.stdout.contains(word), "{word}: {ended:?}");
        }
    }

    let status = Agent::status(&lab).expect("a status");
    assert_eq!((&status["sessions"]["tunneled"], &status["flagged"]), (&1.into(), &1.into()), "{status}");
    assert_eq!((&status["node"], &status["readers"]), (&"node-1".into(), &1.into()), "{status}");
    let text = Agent::run(&lab, &["status"]).expect("a status").stdout;
    for words in [
        "✓ an agent runs on node-1",
        "✓ lost nothing",
        "✓ explains flagged sessions",
        "! names no pods",
        "family     cgroup",
        "sessions   2, 1 of them flagged",
        "1 ✗ handled_as_http",
        "waiting    0 requests",
        "next       egress-tracer observe --flagged --last 5",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }

    all.signal(Signal::INT).expect("a signal");
    assert!(all.finish(TIMEOUT).expect("it ends").status.success());
    let compact = Agent::observe(&lab, &[]).expect("a reader");
    lab.play(&[Script::connect(proxy_addr(HTTP), "c.example:443")]).expect("a 404");
    compact.stdout().wait(TIMEOUT, |lines| (lines.len() >= 2).then_some(())).expect("headings and a line");
    compact.signal(Signal::INT).expect("a signal");
    let ended = compact.finish(TIMEOUT).expect("it ends");
    assert!(
        ended.stderr.contains("1 session in ") && ended.stderr.contains("1 ✗ handled_as_http"),
        "{ended:?}"
    );

    // A summary in every format, and what there is where a filter leaves nothing.
    for (args, words) in [
        (&["--last", "9", "-o", "json"][..], "3 sessions, 2 flagged: 2 ✗ handled_as_http, 1 tunneled"),
        (&["--last", "9", "--first", "1"], "1 session, 0 flagged: 1 tunneled"),
        (&["--timeout", "100ms"], "0 sessions in 0 s, 0 flagged"),
        (
            &["--last", "9", "--to", ":3130"],
            "none of the 3 sessions passes --to :3130: there are 10.0.0.1:3128 (2), 10.0.0.1:3129 (1)",
        ),
        (&["--last", "9", "-n", "shop"], "no container runtime told the names"),
        (&["--until", "1h"], "the agent has kept 3 sessions"),
    ] {
        let all: Vec<&str> = ["observe"].iter().chain(args).copied().collect();
        let ended = Agent::run(&lab, &all).expect("it ends by itself");
        assert!(ended.status.success() && ended.stderr.contains(words), "{args:?}: {words}: {ended:?}");
    }

    // The agent's log, and its end.
    let reader = Agent::observe(&lab, &[]).expect("a reader");
    let ended = agent.stop().expect("it ends");
    assert!(
        ended.status.success() && ended.stdout.lines().count() == 2,
        "flagged ones are logged: {ended:?}"
    );
    assert!(!Agent::socket(&lab).exists(), "it leaves no socket");
    reader.finish(TIMEOUT).expect("it ends, too").assert_error(1, &["the agent at", "has ended"]);
}

#[test]
fn observe_without_an_agent_loads_its_own_probes() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    Agent::run(&lab, &["status"])
        .expect("it ends")
        .assert_error(1, &["no agent runs on this node", "run/agent.sock"]);
    let past = Agent::run(&lab, &["observe", "--last", "1"]).expect("it ends");
    assert!(past.status.code() == Some(1) && past.stderr.contains("--last, --since and --until"), "{past:?}");
    // A test must not trace the whole node: the scope comes from the agent that was killed, or from `--cgroup`.
    let agent = Agent::start(&lab, &[]).expect("an agent");
    agent.kill().expect("it is killed");
    assert!(Agent::socket(&lab).exists(), "SIGKILL leaves the socket");
    Agent::run(&lab, &["status"]).expect("it ends").assert_error(1, &["no agent runs on this node"]);
    let cgroup = lab.pod_cgroup().display().to_string();
    let own = Agent::observe(&lab, &["-o", "json", "--cgroup", &cgroup]).expect("a reader");
    lab.play(&[Script::connect(proxy_addr(HTTP), "a.example:443")]).expect("a 404");
    assert_eq!(reports(&own, 1)[0]["verdict"], "handled_as_http");
    // The next agent replaces the one that was killed; a third is refused.
    let next = Agent::start(&lab, &[]).expect("another agent");
    assert_eq!(Agent::status(&lab).expect("a status")["sessions"]["handled_as_http"], 0);
    let args = ["agent", "--metrics-address", "127.0.0.1:9477", "--cgroup", &cgroup];
    let third = Agent::run(&lab, &args).expect("it ends");
    third.assert_error(1, &["another agent serves at", "--socket"]);
    assert!(Agent::status(&lab).is_ok(), "the running agent is not disturbed");
    assert!(next.stop().expect("it ends").status.success());
}

#[test]
fn errors_of_observe_status_and_the_socket_are_one_sentence() {
    let lab = Lab::new().expect("a lab");
    let agent = Agent::start(&lab, &[]).expect("an agent");
    let as_other_user = |args: &[&str]| {
        let mut command = lab.tools().command("setpriv").expect("a command");
        let program = Agent::command(&lab, &[]).expect("a command").get_program().to_owned();
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).args(args);
        Process::run(command, &[], TIMEOUT).expect("it ends")
    };
    as_other_user(&["observe"]).assert_error(1, &["not allowed", "run/agent.sock", "root"]);
    as_other_user(&["status"]).assert_error(1, &["not allowed"]);
    for (args, word) in [
        (&["observe", "--verdict", "none"][..], "there is no verdict `none`; there are handled_as_http"),
        (&["observe", "--http-status", "40"], "404"),
        (&["observe", "--verdict", "tunneled,tuneled"], "did you mean `tunneled`?"),
        (&["observe", "--to", "proxy"], "10.0.0.1:3128"),
        (&["observe", "--to", "10.0.0.0/33"], "10.0.0.0/8"),
        (&["observe", "--until", "5m", "--follow"], "--follow"),
        (&["observe", "--since", "yesterday"], "5m"),
        (&["observe", "--standalone", "--last", "1"], "--standalone"),
    ] {
        let ended = Agent::run(&lab, args).expect("it ends");
        assert!(ended.status.code() == Some(2) && ended.stderr.contains(word), "{ended:?}");
    }
    // Other clients may use the socket, too.
    let curl = |args: &[&str]| {
        let mut command = lab.tools().command("curl").expect("a command");
        command.arg("-sS").arg("--unix-socket").arg(Agent::socket(&lab)).args(args);
        Process::run(command, &[], TIMEOUT).expect("it ends").stdout
    };
    for (args, words) in [
        (&["http://x/v1/sessions?verdict=none"][..], "verdict: there is no verdict `none`"),
        (&["http://x/v1/sessions?color=red"], "there is no parameter `color`"),
        (&["http://x/v2"], "/v1/sessions"),
        (&["-d", "x", "http://x/v1/status"], "only GET"),
        (&["-H", "egress-tracer-api: 9", "http://x/v1/status"], "speaks version 1, not 9"),
        (&["http://x/v1/sessions?last=0"], ""),
    ] {
        let said = curl(args);
        assert!(said.contains(words) && said.lines().count() <= 1, "{args:?}: {said}");
    }
    assert!(agent.stop().expect("it ends").status.success());

    for (answer, words) in [
        (
            "HTTP/1.1 200 OK\r\negress-tracer-api: 2\r\negress-tracer-version: 9.9.9\x1b[31m\r\n\r\n",
            "no answer",
        ),
        (
            "HTTP/1.1 200 OK\r\negress-tracer-api: 2\r\negress-tracer-version: 9.9.9\r\n\r\n",
            "release 9.9.9 and speaks version 2",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "no agent of egress-tracer"),
        (
            "HTTP/1.1 503 No\r\negress-tracer-api: 1\r\ncontent-length: 11\r\n\r\nno \x1b[2J way\n",
            "refuses: no \\u{1b}[2J way",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no answer from the agent"),
        ("", "no answer from the agent"),
    ] {
        let _ = std::fs::remove_file(Agent::socket(&lab));
        let listener = UnixListener::bind(Agent::socket(&lab)).expect("a socket");
        let fake = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a reader");
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes())
        });
        let ended = Agent::run(&lab, &["observe"]).expect("it ends");
        ended.assert_error(1, &[words]);
        assert!(!ended.stderr.contains('\x1b'), "{ended:?}");
        fake.join().expect("a thread").expect("it was read");
    }
}

/// Sessions of each wave. All waves are more than the sockets' buffers and the agent hold for a reader.
const WAVE: usize = 100;
const WAVES: usize = 6;
/// Reports that the agent keeps: more than a wave, so that a reader that keeps up loses none.
const KEEP: usize = 128;

#[test]
fn stopped_reader_loses_reports_and_other_readers_lose_none() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let agent = Agent::start(&lab, &["--keep", &KEEP.to_string()]).expect("an agent");
    let readers: Vec<Process> =
        (0..10).map(|_| Agent::observe(&lab, &["-o", "json"]).expect("a reader")).collect();
    let (stopped, others) = readers.split_first().expect("ten of them");
    let wave = vec![Script::connect(proxy_addr(HTTP), "a.example:443"); WAVE];
    let (mut memory, mut took) = (Vec::new(), Vec::new());
    for number in 1..=WAVES {
        if number == 2 {
            stopped.signal(Signal::STOP).expect("a signal");
        }
        let begun = Instant::now();
        assert!(lab.play(&wave).expect("answers").iter().all(|answer| answer.status() == Some(404)));
        for reader in others {
            reports(reader, number * WAVE);
        }
        took.push(begun.elapsed());
        memory.push(agent.memory_kb().expect("its memory"));
    }
    assert_eq!(Agent::status(&lab).expect("a status")["flagged"], WAVE * WAVES);
    stopped.signal(Signal::CONT).expect("a signal");
    let told = |lines: &[String]| {
        let lost: u64 = lines.iter().filter_map(|line| gap(line)).sum();
        let read = lines.iter().filter(|line| gap(line).is_none()).count();
        (read as u64 + lost == (WAVE * WAVES) as u64).then_some((read, lost))
    };
    let (read, lost) =
        stopped.stdout().wait(TIMEOUT, told).expect("read and lost reports add up to all reports");
    assert!(read >= WAVE + KEEP && lost > 0, "{read} read, {lost} lost");
    for reader in others {
        assert!(reader.stdout().all().iter().all(|line| gap(line).is_none()), "the others lost nothing");
    }
    // The ring and the buffers were full before the last waves, so the memory must not grow any more.
    let (middle, last) = (memory[WAVES / 2], memory[WAVES - 1]);
    eprintln!(
        "stopped reader: {read} read, {lost} lost; other readers had each wave after {took:?}; memory in KiB: {memory:?}"
    );
    assert!(last < middle + (2 << 10), "{memory:?}");
}

/// How many reports a line says were lost.
fn gap(line: &str) -> Option<u64> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["lost"]["source"] == "reader").then(|| line["lost"]["count"].as_u64())?
}

/// Prints the delays and asserts none of them, because they depend on the machine's other load. The benchmark measures
/// them.
#[test]
fn every_session_becomes_a_line_on_the_terminal() {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy");
    let scripts = [HTTP, TCP].map(|port| Script::connect(proxy_addr(port), "a.example:443"));
    let delays = line_latencies(&lab, 100, &scripts).expect("a line for each");
    let at = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    eprintln!("from answer to line: median {:?}, 99th percentile {:?}, most {:?}", at(50), at(99), at(100));
}
