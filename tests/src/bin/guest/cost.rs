//! Run times of the fentry and kprobe families beside empty programs at the same places, and of the tools that an
//! engineer would use instead, on the same traffic. It only measures, in nanoseconds of an emulated processor; `cargo
//! xtask bench guests` makes the ratios.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use lab::load::{Load, LoadGenerator, Tunnel};
use lab::{EmptyProbes, Lab, PROXY, ProbePoint, Process, Runs, Tracer, Usage, kernel_programs};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::boot;
use crate::families::{GUEST_PROGRAM, TIMEOUT, print_result};

/// The tracer's programs of a family: the end of the name, and the function. The kernel keeps 15 bytes of a name, one
/// of which is left for this end.
const HOOKS: [(&str, &str); 5] = [
    ("accept", "security_sock_graft"),
    ("connect", "tcp_connect"),
    ("knock", "inet_csk_reqsk_queue_hash_add"),
    ("options", "security_socket_setsockopt"),
    ("send", "tcp_sendmsg"),
];
const STATES: (&str, &str) = ("egress_sock_states", "inet_sock_set_state");
const NAME: usize = 15;

/// Prints the beginning of each CONNECT, its sender, and its destination. It reads the only piece of a `write`; a
/// message of several pieces has its pointer elsewhere.
const SCRIPT: &str = r#"
kfunc:vmlinux:tcp_sendmsg {
    $at = uptr((uint8 *)args->msg->msg_iter.ubuf);
    if (strncmp(str($at, 9), "CONNECT ", 8) == 0) {
        $to = args->sk->__sk_common;
        printf("%d %s %s %d %s\n", pid, comm, ntop($to.skc_daddr), bswap($to.skc_dport), str($at, 64));
    }
}
"#;

/// The tools that an engineer would use instead, with their arguments.
const PEERS: [(&str, &[&str]); 3] =
    [("bpftrace", &["-B", "line", "-e", SCRIPT]), ("tcpconnect", &["-t"]), ("tcptracer", &["-t"])];

/// Run counts by program id.
type Counts = BTreeMap<u32, Runs>;

/// The loads, by their letter in the tables.
fn loads(seconds: f64) -> [(&'static str, Load); 3] {
    let to = SocketAddr::new(PROXY, 3128);
    let plain = Tunnel { to, authority: None, seconds, turns: None };
    let asked = Tunnel { authority: Some("www.example.com:443".to_owned()), ..plain.clone() };
    [
        // First, because for some time after a CONNECT the tracer looks at other first bytes, too.
        ("b", Load::Short(plain.clone())),
        ("a", Load::RoundTrips(plain)),
        ("c", Load::Connections(asked)),
    ]
}

/// Measures each load for `seconds` seconds and prints the cost of each watcher.
pub(crate) fn measure(seconds: f64) -> Result<()> {
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("the kernel does not count")?;
    boot::mount("tracefs", "/sys/kernel/tracing")?; // bpftrace and libbpf-tools look up functions there
    let lab = Lab::new()?;
    let mut command = lab.sidecar().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["echo", "127.0.0.1:15001"]);
    let sidecar = Process::spawn(command, &[])?;
    sidecar.wait_line("open port", sidecar.stdout(), TIMEOUT, |line| (line == "listening").then_some(()))?;
    let generator = LoadGenerator("/bin/load".into());
    for family in ["fentry", "kprobe"] {
        print_result(family, &family_cost(&lab, &generator, family, seconds));
    }
    for (name, arguments) in PEERS {
        print_result(name, &peer_cost(&lab, &generator, name, arguments, seconds));
    }
    Ok(())
}

fn family_cost(lab: &Lab, generator: &LoadGenerator, family: &str, seconds: f64) -> Result<Value> {
    let names: Vec<String> = HOOKS.iter().map(|(what, _)| format!("egress_{family}_{what}")).collect();
    let start = || Tracer::start(lab, &["--family", family]);
    // The empty programs must be attached before the tracer's, so the functions are looked up in a first run.
    let others = program_ids()?;
    let tracer = start()?;
    let functions: BTreeMap<String, u32> = kernel_programs()?
        .into_iter()
        .filter(|(id, _)| !others.contains(id))
        .map(|(_, program)| (program.name, program.function))
        .collect();
    tracer.stop()?;
    let mut places = vec![ProbePoint::RawTracepoint(STATES.1)];
    for ((_, function), name) in HOOKS.iter().zip(&names) {
        let number = functions.get(&name[..NAME]).with_context(|| format!("no {name} in {functions:?}"))?;
        places.push(if family == "fentry" {
            ProbePoint::Fentry(*number)
        } else {
            ProbePoint::Kprobe(function)
        });
    }
    let hooks: Vec<&str> = [STATES.0].into_iter().chain(names.iter().map(String::as_str)).collect();
    let before = EmptyProbes::attach(&places)?;
    let others = program_ids()?;
    let tracer = start()?;
    let ours: BTreeMap<String, u32> = kernel_programs()?
        .into_iter()
        .filter(|(id, _)| !others.contains(id))
        .map(|(id, program)| (program.name, id))
        .collect();
    let behind = EmptyProbes::attach(&places)?;
    let mut found = serde_json::Map::new();
    for (letter, load) in loads(seconds) {
        let count = || -> Result<(Counts, Vec<Runs>)> {
            let empty = before.runs()?.into_iter().zip(behind.runs()?);
            let empty = empty.map(|(a, b)| Runs { ns: a.ns + b.ns, count: a.count + b.count });
            Ok((counts(ours.values().copied())?, empty.collect()))
        };
        let Counted { flows, cpu, from, to } = counted(lab, generator, &load, tracer.pid(), count)?;
        let mut rows = Vec::new();
        for (nth, hook) in hooks.iter().enumerate() {
            let id = ours.get(&hook[..NAME]).with_context(|| format!("no {hook} in {ours:?}"))?;
            let (mine, empty) = (to.0[id].since(from.0[id]), to.1[nth].since(from.1[nth]));
            rows.push(json!({"hook": hook, "runs": mine.count, "ns": mine.ns, "empty_runs": empty.count,
                "empty_ns": empty.ns}));
        }
        found.insert(letter.to_owned(), json!({"flows": flows, "cpu_ns": cpu, "hooks": rows}));
    }
    if let Ok(ended) = tracer.stop() {
        ensure!(ended.status.success(), "the tracer ended with {}: {}", ended.status, ended.stderr);
    }
    Ok(Value::Object(found))
}

fn peer_cost(
    lab: &Lab,
    generator: &LoadGenerator,
    name: &str,
    arguments: &[&str],
    seconds: f64,
) -> Result<Value> {
    let others = program_ids()?;
    let mut command = lab.pod_root().command(name)?;
    command.args(arguments);
    let process = Process::spawn(command, &[])?;
    let mine = || -> Result<Counts> {
        Ok(kernel_programs()?
            .into_iter()
            .filter(|(id, _)| !others.contains(id))
            .map(|(id, program)| (id, program.runs))
            .collect())
    };
    // The tool does not say when its programs are attached. They are when the same programs ran twice in a row.
    let warm = Load::Connections(Tunnel {
        to: SocketAddr::new(PROXY, 3128),
        authority: Some("www.example.com:443".to_owned()),
        seconds: 0.2,
        turns: None,
    });
    let mut ran: Option<BTreeSet<u32>> = None;
    for turn in 0.. {
        let from = mine()?;
        generator.run(lab, &warm)?;
        let to = mine()?;
        let now: BTreeSet<u32> = to
            .iter()
            .filter(|(id, runs)| from.get(id).is_none_or(|from| from.count < runs.count) && runs.count > 0)
            .map(|(id, _)| *id)
            .collect();
        if !now.is_empty() && ran.as_ref() == Some(&now) {
            break;
        }
        ran = Some(now);
        if turn == 200 {
            bail!("it is not attached; it said: {}{}", process.stdout().text(), process.stderr().text());
        }
    }
    let mut found = serde_json::Map::new();
    for (letter, load) in loads(seconds) {
        let Counted { flows, cpu, from, to } = counted(lab, generator, &load, process.pid(), mine)?;
        let since = to.iter().map(|(id, runs)| runs.since(from.get(id).copied().unwrap_or_default()));
        let (ns, runs) = since.fold((0, 0), |(ns, count), runs| (ns + runs.ns, count + runs.count));
        found.insert(letter.to_owned(), json!({"flows": flows, "cpu_ns": cpu, "ns": ns, "runs": runs}));
    }
    process.signal(Signal::INT)?;
    let said = process.finish(TIMEOUT)?;
    found.insert("lines".to_owned(), json!(said.stdout.lines().count()));
    found.insert("last".to_owned(), json!(said.stdout.lines().rev().find(|line| !line.trim().is_empty())));
    Ok(Value::Object(found))
}

/// The counts around a load.
struct Counted<T> {
    flows: u64,
    /// Processor time of the watcher in ns.
    cpu: u64,
    from: T,
    to: T,
}

fn counted<T>(
    lab: &Lab,
    generator: &LoadGenerator,
    load: &Load,
    watcher: u32,
    count: impl Fn() -> Result<T>,
) -> Result<Counted<T>> {
    let look = || Ok::<_, anyhow::Error>((count()?, Usage::of(watcher)?.cpu));
    let cold = look()?;
    let process = generator.start(lab.app(), load)?;
    // A long-lived flow counts only after its first bytes and before its end.
    let (from, before) = if matches!(load, Load::RoundTrips(_)) { look()? } else { cold };
    let done = LoadGenerator::done(&process)?;
    let (to, after) = look()?;
    process.finish(TIMEOUT)?;
    ensure!(done.count > 0 && done.failed == 0, "the load came to nothing: {done:?}");
    let cpu = after.saturating_sub(before);
    Ok(Counted { flows: done.count, cpu: u64::try_from(cpu.as_nanos())?, from, to })
}

fn program_ids() -> Result<BTreeSet<u32>> {
    Ok(kernel_programs()?.into_keys().collect())
}

fn counts(wanted: impl Iterator<Item = u32>) -> Result<Counts> {
    let all = kernel_programs()?;
    wanted.map(|id| Ok((id, all.get(&id).context("a program was unloaded")?.runs))).collect()
}

/// Stands in for the sidecar: answers a CONNECT like its HTTP listener and echoes everything else. Envoy would take
/// most of the time on an emulated processor.
pub(crate) fn echo(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening");
    loop {
        let (stream, _) = listener.accept()?;
        // The peer may close at any time.
        thread::spawn(move || give_back(stream));
    }
}

fn give_back(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n if buffer[..n].starts_with(b"CONNECT ") => {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n")?;
            }
            n => stream.write_all(&buffer[..n])?,
        }
    }
}
