//! A program that dials, becomes another one by `execve(2)`, and then sends its request: on a connection of its own, or on the
//! one that it inherited. Process and thread id stay the same; the name does not.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, PROXY, Process, Tracer};
use serde_json::{Value, json};

use crate::call;
use crate::families::{GUEST_PROGRAM, TIMEOUT, sidecars};

/// The name of the program that dials first.
const BEFORE: &str = "before-exec";

/// The report names the program that sent the request. On an inherited connection the cgroup family names the program that
/// dialed: its packets may leave in a softirq, where the current task is not the sender.
pub(crate) fn check_exec(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let _sidecars = sidecars(&lab)?;
    let tracer = Tracer::start(&lab, &["--family", family, "--deadline", "20s"])?;
    for (nth, (how, due)) in
        [("anew", "guest"), ("inherited", if family == "cgroup" { BEFORE } else { "guest" })]
            .into_iter()
            .enumerate()
    {
        let mut command = lab.app().command_at(Path::new(GUEST_PROGRAM))?;
        command.args(["exec", how, &SocketAddr::new(PROXY, 3128).to_string()]);
        Process::run_checked(command, &[], TIMEOUT)?;
        let reports = tracer.wait_reports(nth + 1, TIMEOUT)?;
        let comm = &reports[nth]["source"]["comm"];
        ensure!(*comm == due, "{how}: reported as {comm} and not as {due}: {reports:?}");
    }
    Ok(json!("both"))
}

/// The app: dials under another name and becomes a program that sends.
pub(crate) fn run(how: &str, address: &str) -> Result<()> {
    fs::write("/proc/self/comm", BEFORE)?;
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let mut command = Command::new(GUEST_PROGRAM);
    match how {
        "anew" => {
            drop(stream);
            command.args(["call", "write", address]);
        }
        "inherited" => {
            command.arg("send").stdin(std::os::fd::OwnedFd::from(stream));
        }
        _ => bail!("no way {how}"),
    }
    Err(command.exec()).context("cannot become another program")
}

/// The app after that: sends its request on its standard input, which is the connection, and waits for the answer.
pub(crate) fn send() -> Result<()> {
    let mut stream = TcpStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    call::send_and_wait(&mut stream, "write")
}
