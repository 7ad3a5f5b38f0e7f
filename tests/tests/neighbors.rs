//! The tracer does not change what other tools see and do on the same cgroup hooks, attached before it and after it.

use std::path::Path;

use anyhow::Result;
use lab::{CloseCounter, FOREIGN_LEVEL, Lab, OptionHandler, Tracer};

/// Dials itself 20 times on the loopback interface and closes both ends of each connection.
const DIALS: &str = "
import socket
listener = socket.create_server(('127.0.0.1', 0))
for _ in range(20):
    dialed = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    dialed.close()
    assert accepted.recv(1) == b''
    accepted.close()
";

/// Attaches a program of another tool before or after the tracer, and runs `look` while both are attached.
fn beside_the_tracer<P>(attach: impl Fn(&Path) -> Result<P>, tracer_first: bool, look: impl Fn(&Lab, &P)) {
    let lab = Lab::new().expect("a lab");
    let early = (!tracer_first).then(|| attach(lab.pod_cgroup()).expect("the other program, first"));
    let tracer = Tracer::start(&lab, &[]).expect("the tracer");
    let program = early.unwrap_or_else(|| attach(lab.pod_cgroup()).expect("the other program, second"));
    look(&lab, &program);
    tracer.stop().expect("the tracer stops");
}

/// How many sockets another tool sees close while an app makes 20 connections.
fn closed_sockets(lab: &Lab, counter: &CloseCounter) -> u64 {
    let before = counter.count().expect("a count");
    let run = lab.run_app("python3", &["-c", DIALS]).expect("the app");
    assert!(run.status.success(), "{run:?}");
    counter.count().expect("a count") - before
}

#[test]
fn another_programs_close_callbacks_arrive_while_the_tracer_is_attached() {
    let lab = Lab::new().expect("a lab");
    let counter = CloseCounter::attach(lab.pod_cgroup()).expect("a counter");
    let alone = closed_sockets(&lab, &counter);
    assert!(alone >= 40, "both ends of 20 connections close, and {alone} were seen");
    for tracer_first in [false, true] {
        beside_the_tracer(CloseCounter::attach, tracer_first, |lab, counter| {
            assert_eq!(closed_sockets(lab, counter), alone, "tracer first: {tracer_first}");
        });
    }
}

#[test]
fn another_programs_own_socket_option_works_while_the_tracer_is_attached() {
    let set = format!("import socket; socket.socket().setsockopt({FOREIGN_LEVEL}, 1, b'value')");
    let lab = Lab::new().expect("a lab");
    let refused = lab.run_app("python3", &["-c", &set]).expect("the app");
    assert!(!refused.status.success(), "the kernel itself has no such option: {refused:?}");
    for tracer_first in [false, true] {
        beside_the_tracer(OptionHandler::attach, tracer_first, |lab, _| {
            let run = lab.run_app("python3", &["-c", &set]).expect("the app");
            assert!(run.status.success(), "tracer first: {tracer_first}: {run:?}");
        });
    }
}
