//! `egress-tracer explain`: what the sidecar's configuration says about connections to a proxy, and what to change. It
//! fetches or reads the configuration, and prints; [`tracer_mesh`] decides.

mod admin;
mod config_cache;
mod source;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

pub use config_cache::{Answer as ConfigAnswer, Fetches, Sidecar, Sidecars};

use crate::runtime::Endpoint;
use source::Source;
use tracer_core::mesh_profile::DEFAULT;

/// What `--help` shows below.
pub(crate) const EXAMPLES: &str = "\
Examples:
  egress-tracer explain --pid 4711 --to 10.0.0.1:3128
  egress-tracer explain --pid 4711 --to 10.0.0.1:3128 --to 10.0.0.2:3128 -o yaml > fix.yaml
  curl -s 127.0.0.1:15000/config_dump?include_eds | egress-tracer explain --config-dump - --to 10.0.0.1:3128";

/// The arguments of `egress-tracer explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct Args {
    /// The proxy's address as the app dials it; repeat it for every address of the proxy
    #[arg(long, required = true, value_name = "IP:PORT", value_parser = address)]
    pub to: Vec<SocketAddr>,
    /// Read the configuration from a file; `-` is standard input
    #[arg(long, value_name = "FILE", group = "source")]
    pub config_dump: Option<PathBuf>,
    /// Ask the sidecar in the network namespace of this process
    #[arg(long, value_name = "PID", group = "source")]
    pub pid: Option<u32>,
    /// Ask the sidecar of this pod on this node
    #[arg(long, value_name = "NS/NAME", group = "source")]
    pub pod: Option<String>,
    /// The container runtime's socket, which knows the pod, such as /run/containerd/containerd.sock [default: found]
    #[arg(long, value_name = "SOCKET", env = "CONTAINER_RUNTIME_ENDPOINT")]
    pub runtime_endpoint: Option<Endpoint>,
    /// The app's first bytes; a CONNECT as curl writes it, if absent
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
    /// The sidecar's admin port
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT.admin_port)]
    pub admin_port: u16,
    /// A port that receives the app's redirected connections, where several listeners could; may be repeated
    #[arg(long, value_name = "PORT", default_values_t = [DEFAULT.outbound_port])]
    pub sidecar_port: Vec<u16>,
    /// What to print: the whole explanation, one JSON object for each address, or the best fix's manifest alone
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// What `-o` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One object a line.
    Json,
    /// The best fix's manifest.
    Yaml,
}

impl Args {
    /// Replaces the pod by a process in it.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid: Some(pid), pod: None, ..self }
    }
}

/// The configuration of the sidecar in the network namespace of process `pid`, as its admin port gives it.
pub fn fetch(pid: u32, admin_port: u16) -> anyhow::Result<Vec<u8>> {
    Source::Process { pid, admin_port }.read()
}

/// Runs the command. An error is one sentence on what was tried and what to do; its exit code is 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match print(args, &mut out) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

/// Runs the command and writes its answer to `out`.
pub fn print(args: &Args, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let head = match &args.head {
        Some(path) => source::read_head(path)?,
        None => tracer_mesh::CURL_CONNECT.to_vec(),
    };
    let source = Source::of(args)?;
    let dump = tracer_mesh::Dump::from_bytes(source.read()?)
        .with_context(|| format!("cannot use {source}"))?
        .redirected_to(&args.sidecar_port);
    let explanations =
        tracer_mesh::explain(&dump, &args.to, &head).with_context(|| format!("cannot use {source}"))?;
    match args.output {
        Output::Text => {
            out.write_all(tracer_mesh::render::text(&explanations, dump.unreadable).as_bytes())?;
        }
        Output::Json => {
            for explanation in &explanations {
                serde_json::to_writer(&mut *out, explanation)?;
                out.write_all(b"\n")?;
            }
        }
        Output::Yaml => match explanations.first().and_then(|first| first.fixes.first()) {
            Some(fix) => out.write_all(tracer_mesh::render::manifest(fix).as_bytes())?,
            None if explanations.iter().all(|e| e.decision.reaches_proxy()) => {
                eprintln!("Nothing to change: the sidecar passes these connections on as TCP.");
            }
            None => bail!(
                "no change of ours was proven to mend this; see why with: egress-tracer explain -o text (same arguments)"
            ),
        },
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        || error
            .downcast_ref::<serde_json::Error>()
            .is_some_and(|error| error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "needs an address and a port, as the app dials them: 10.0.0.1:3128 or [fd00::1]:3128".to_owned()
    })
}
