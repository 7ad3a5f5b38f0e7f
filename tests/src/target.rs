//! The web server behind the proxy, with TLS and a certificate made at start.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::lab::Lab;
use crate::process::Process;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The body of `https://NAME/page.html`.
pub const PAGE: &str = "Hello from behind the proxy.\n";

/// A running `openssl s_server`, which serves files over TLS, one connection at a time.
#[derive(Debug)]
pub struct Target {
    _process: Process,
    certificate: PathBuf,
}

impl Target {
    /// Starts the server outside on `listen` for `name`. Returns when it accepts connections.
    pub fn start(lab: &Lab, listen: SocketAddr, name: &str) -> Result<Self> {
        let dir = lab.make_dir(&format!("target-{}", listen.port()))?;
        let certificate = dir.join("certificate.pem");
        fs::write(dir.join("page.html"), PAGE)?;
        let mut make = lab.outside().command("openssl")?;
        make.current_dir(&dir).args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]);
        make.args(["-days", "2", "-keyout", "key.pem", "-out", "certificate.pem"]);
        make.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
        Process::run_checked(make, &[], TIMEOUT)?;
        let mut serve = lab.outside().command("openssl")?;
        serve.current_dir(&dir).args(["s_server", "-WWW", "-accept", &listen.to_string()]);
        serve.args(["-cert", "certificate.pem", "-key", "key.pem"]);
        let process = Process::spawn(serve, &[])?;
        process.wait_line("open port", process.stdout(), TIMEOUT, |line| {
            line.contains("ACCEPT").then_some(())
        })?;
        Ok(Self { _process: process, certificate })
    }

    /// The self-signed certificate, for `curl --cacert`.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }
}
