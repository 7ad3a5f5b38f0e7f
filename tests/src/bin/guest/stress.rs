//! Many sessions at once on every processor: what the kernel programs share between processors (the flows, the accepted
//! sockets, the threads) must neither lose a session nor mix two.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
    path::Path,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Behavior, Lab, PROXY, Process, ScriptedProxy, Tracer};
use serde_json::{Value, json};

use crate::families::{GUEST_PROGRAM, TIMEOUT};

/// Sessions of each thread of the app.
const SESSIONS: usize = 100;

/// The address of the stand-in's listener, behind the pod's redirect.
const SIDECAR: &str = "127.0.0.1:15001";

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// As many threads of an app as there are processors each open sessions, one after the other. The stand-in for the sidecar
/// answers every second one itself and takes the others to the proxy.
pub(crate) fn check_stress(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let to = SocketAddr::new(PROXY, 3128).to_string();
    let _proxy = ScriptedProxy::start(&lab, (PROXY, 3128).into(), Behavior::Tunnel)?;
    let mut command = lab.sidecar().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["relay", SIDECAR, &to]);
    let sidecar = Process::spawn(command, &[])?;
    sidecar.wait_line("open port", sidecar.stdout(), TIMEOUT, |line| (line == "listening").then_some(()))?;
    let tracer = Tracer::start(&lab, &["--family", family])?;
    let mut command = lab.app().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["stress", &to]);
    let app = Process::run(command, &[], TIMEOUT)?;
    ensure!(app.status.success(), "the app: {}", app.stderr);
    let count = processors() * SESSIONS;
    let reports = tracer.wait_reports(count, TIMEOUT)?;
    let mut wrong = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for report in &reports {
        let authority = report["connect"]["authority"].as_str().context("no authority")?;
        *seen.entry(authority.to_owned()).or_insert(0) += 1;
        let right = if authority.starts_with("local") { "handled_as_http" } else { "tunneled" };
        if report["verdict"] != right {
            let said = format!("{} {} and not {right}", report["verdict"], report["reason"]);
            *wrong.entry(said).or_insert(0) += 1;
        }
    }
    ensure!(wrong.is_empty(), "{wrong:?} of {count}");
    ensure!(
        seen.len() == count && seen.values().all(|times| *times == 1),
        "{} of {count} requests have a report, {} reports",
        seen.len(),
        reports.len()
    );
    Ok(json!(format!("{count} sessions on {} processors", processors())))
}

/// The app.
pub(crate) fn open_sessions(proxy: &str) -> Result<()> {
    let work = |thread: usize| -> Result<()> {
        for nth in 0..SESSIONS {
            let kind = if nth % 2 == 0 { "local" } else { "through" };
            let authority = format!("{kind}-{thread}-{nth}.example:443");
            let mut stream =
                TcpStream::connect(proxy).with_context(|| format!("cannot connect to {proxy}"))?;
            write!(stream, "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")?;
            let answer = read_head(&mut stream)?;
            let right = if kind == "local" { "HTTP/1.1 404" } else { "HTTP/1.1 200" };
            ensure!(answer.starts_with(right), "{authority} was answered {answer}");
        }
        Ok(())
    };
    on_all_processors(work)
}

/// The stand-in for the sidecar: a thread for each processor accepts and answers, as Envoy's workers do. Envoy itself would
/// be emulated here, and is in the cases.
pub(crate) fn relay(address: &str, proxy: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening");
    on_all_processors(|_| {
        loop {
            let (mut app, _) = listener.accept()?;
            let head = read_head(&mut app)?;
            if head.starts_with("CONNECT local") {
                app.write_all(b"HTTP/1.1 404 Not Found\r\nserver: envoy\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            let mut upstream = TcpStream::connect(proxy)?;
            upstream.write_all(head.as_bytes())?;
            let answer = read_head(&mut upstream)?;
            app.write_all(answer.as_bytes())?;
        }
    })
}

/// Runs `work` on as many threads as there are processors, with the number of each.
fn on_all_processors(work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..processors()).map(|nth| scope.spawn(move || work(nth))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

/// Everything up to the empty line.
fn read_head(stream: &mut TcpStream) -> Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "closed after {} bytes", head.len());
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
