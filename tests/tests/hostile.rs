//! What a hostile pod can do to the agent and to its neighbor while it attacks: the agent lives within its memory limit and
//! answers health checks, and the neighbor's sessions are reported rightly, or as undetermined, each once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{
    Agent, Behavior, Envoy, Lab, Process, Script, ScriptedProxy, built_program, full_sidecar, pause,
    process_memory_kb, proxy_addr,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_mins(2);
/// The memory limit of the default deployment.
const MEMORY_KB: u64 = 256 << 10;
/// Sessions of the neighbor: half of them are broken by its sidecar, the others are tunneled.
const SESSIONS: usize = 200;
const HTTP: u16 = 3128;
const TCP: u16 = 3129;
/// Where the attacker sends.
const ATTACKED: u16 = 4007;

/// How many records a second a cgroup may write here: less than the flood makes, and more than the neighbor.
const RECORD_RATE: &str = "5000";

struct Seen {
    /// Sessions of the neighbor, by what is right, what was said, and the reason.
    said: BTreeMap<(&'static str, String, String), usize>,
    peak_kb: u64,
    slowest_health: Duration,
    /// How many records of the attacker were not written.
    throttled: f64,
}

/// Plays the neighbor's sessions while the attack goes on.
fn attacked(attack: &str, connections: &str) -> Seen {
    let lab = Lab::new().expect("a lab");
    let _envoy = Envoy::sidecar(&lab, &full_sidecar()).expect("Envoy");
    let _proxy = ScriptedProxy::start(&lab, proxy_addr(TCP), Behavior::Tunnel).expect("a proxy");
    let agent = Agent::start(&lab, &["--record-rate", RECORD_RATE]).expect("an agent");
    let reader = Agent::observe(&lab, &["-o", "json", "--authority", "neighbor*"]).expect("a reader");
    let mut command =
        lab.other_pod().command_at(&built_program("hostile").expect("built")).expect("a command");
    command.args([attack, &proxy_addr(ATTACKED).to_string(), connections]);
    let attacker = Process::spawn(command, &[]).expect("an attacker");
    attacker
        .wait_line("attack", attacker.stdout(), TIMEOUT, |line| (line == "attacking").then_some(()))
        .expect("it attacks");

    let is_over = AtomicBool::new(false);
    let slowest_health = thread::scope(|scope| {
        let health = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                lab.tools().netns().http_get("http://127.0.0.1:9476/healthz").expect("the agent is alive");
                slowest = slowest.max(start.elapsed());
                pause(Duration::from_millis(100));
            }
            slowest
        });
        let scripts: Vec<Script> = (0..SESSIONS)
            .map(|nth| {
                let (kind, port) = if nth % 2 == 0 { ("broken", HTTP) } else { ("tunneled", TCP) };
                Script::connect(proxy_addr(port), &format!("neighbor-{kind}-{nth}.example:443"))
            })
            .collect();
        for some in scripts.chunks(10) {
            lab.play(some).expect("the neighbor's sessions");
        }
        is_over.store(true, Ordering::Relaxed);
        health.join().expect("health checks")
    });
    // The stream also says what was lost.
    let reports = |lines: &[String]| -> Vec<Value> {
        let all = lines.iter().map(|line| serde_json::from_str(line).expect("JSON"));
        all.filter(|line: &Value| line["lost"].is_null()).collect()
    };
    let all = reader.stdout().wait(TIMEOUT, |lines| Some(reports(lines)).filter(|all| all.len() >= SESSIONS));
    let all = all.unwrap_or_else(|| panic!("{} of {SESSIONS}", reports(&reader.stdout().all()).len()));
    assert!(attacker.finish(Duration::ZERO).is_err(), "the attack goes on");
    let metrics = lab.tools().netns().http_get("http://127.0.0.1:9475/metrics").expect("metrics");
    let throttled = metrics
        .lines()
        .filter(|line| line.starts_with("egress_tracer_lost_events_total{") && line.contains("throttled"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    let peak_kb = process_memory_kb(agent.process().pid(), "VmHWM").expect("its memory");
    let mut said = BTreeMap::new();
    for report in &all {
        let authority = report["connect"]["authority"].as_str().expect("an authority");
        let right = if authority.starts_with("neighbor-broken") { "handled_as_http" } else { "tunneled" };
        let word = |key: &str| report[key].as_str().unwrap_or("-").to_owned();
        *said.entry((right, word("verdict"), word("reason"))).or_insert(0) += 1;
    }
    Seen { said, peak_kb, slowest_health, throttled }
}

fn check(attack: &str, connections: &str) -> Seen {
    let seen = attacked(attack, connections);
    let Seen { said, peak_kb, slowest_health, throttled } = &seen;
    println!(
        "{attack}: {said:?}, at most {peak_kb} KiB, health within {slowest_health:?}, {throttled} records throttled"
    );
    for (right, verdict, _) in said.keys() {
        assert!(verdict == right || verdict == "undetermined", "{said:?}");
    }
    assert_eq!(said.values().sum::<usize>(), SESSIONS, "one report each: {said:?}");
    assert!(*peak_kb < MEMORY_KB, "{peak_kb} KiB");
    assert!(*slowest_health < Duration::from_secs(1), "{slowest_health:?}");
    seen
}

#[test]
fn pipelined_requests_cost_neither_the_agent_nor_a_neighbor() {
    check("pipeline", "400");
}

#[test]
fn first_lines_without_an_end_cost_neither_the_agent_nor_a_neighbor() {
    check("endless", "4000");
}

#[test]
fn flood_of_connections_costs_neither_the_agent_nor_a_neighbor() {
    let seen = check("flood", "0");
    assert!(seen.throttled > 0.0, "it makes more records than it may");
    let doubted = seen.said.keys().filter(|(_, verdict, _)| verdict == "undetermined").count();
    assert_eq!(doubted, 0, "what was throttled is the attacker's own: {:?}", seen.said);
}
