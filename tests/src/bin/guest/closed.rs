//! A sidecar that closes what it accepts before the app has sent anything, as Envoy does where no filter chain matches.
//! The app still sends its CONNECT and must get its verdict.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::{Lab, PROXY, Process, Tracer};
use serde_json::{Value, json};

use crate::call::{authority, request};
use crate::families::{GUEST_PROGRAM, TIMEOUT};

const CALL: &str = "closed";

/// The verdict must be the one of an app that sends in time, although the sidecar's socket is gone.
pub(crate) fn check_early_close(family: &str) -> Result<Value> {
    let lab = Lab::new()?;
    let mut command = lab.sidecar().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["close", "127.0.0.1:15001"]);
    let sidecar = Process::spawn(command, &[])?;
    sidecar.wait_line("open port", sidecar.stdout(), TIMEOUT, |line| (line == "listening").then_some(()))?;
    let tracer = Tracer::start(&lab, &["--family", family, "--deadline", "20s"])?;
    let mut command = lab.app().command_at(Path::new(GUEST_PROGRAM))?;
    command.args(["closed", &SocketAddr::new(PROXY, 3128).to_string()]);
    Process::run_checked(command, &[], TIMEOUT)?;
    let reports = tracer.wait_reports(1, TIMEOUT)?;
    ensure!(
        reports.len() == 1
            && reports[0]["verdict"] == "blackholed"
            && reports[0]["connect"]["authority"] == authority(CALL).as_str(),
        "not blackholed: {reports:?}"
    );
    Ok(json!("blackholed"))
}

/// The app: connects, waits for the peer's end, and then sends its request.
pub(crate) fn send_after_close(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    let count = stream.read(&mut [0])?;
    ensure!(count == 0, "the peer answered");
    stream.write_all(request(CALL).as_bytes())?;
    Ok(())
}

/// The sidecar: closes what it accepts.
pub(crate) fn close_accepted(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening");
    loop {
        drop(listener.accept()?);
    }
}
