//! `egress-tracer probe`: one real CONNECT from an app's pod, as the app's user, so that it is redirected as the app's are;
//! what came of it by the kernel's evidence; and what the sidecar's configuration predicts.

mod dial;
mod outcome;

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, timeout_at};

use super::{
    output::FailOn,
    scope,
    source::{self, Source},
};
use crate::{
    explain::{self, HttpVersion, ProxyTarget},
    live::Query,
    runtime,
    terminal::{self, Color},
};
use dial::{AppView, DialSettings};
use outcome::{Outcome, Prediction};
use tracer_core::report::{Message, Report};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer probe --pod shop/cart-7d9 --to proxy.corp:3128
  egress-tracer probe --pid 4711 --to 10.0.0.1:3128 --authority api.example.com:443
  egress-tracer probe --pid 4711 --to 10.0.0.1:3128 --fail-on flagged     after a fix: exit code 0 is the proof";

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("where").required(true))]
pub(super) struct Args {
    /// The proxy as the app dials it, an address or a name
    #[arg(long, value_name = "HOST[:PORT]")]
    to: ProxyTarget,
    /// A process of the app: the CONNECT is sent from its network namespace and cgroup, as its user
    #[arg(long, value_name = "PID", group = "where")]
    pid: Option<u32>,
    /// The app's pod on this node
    #[arg(long, value_name = "NS/NAME", group = "where")]
    pod: Option<String>,
    /// The target of the CONNECT
    #[arg(long, value_name = "HOST:PORT", default_value = "example.com:443", value_parser = explain::authority)]
    authority: String,
    /// The version of HTTP to speak
    #[arg(long, value_enum, value_name = "VERSION", default_value_t)]
    http: HttpVersion,
    /// The user id to send as [default: the process's own, or 65534 where that is the sidecar's]
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = super::duration)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// Exit with 3 if the session is flagged
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    /// Color in the text
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// This process is the one that dials
    #[arg(long, hide = true)]
    dial: bool,
    #[command(flatten)]
    source: source::Args,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
}

/// How long after the answer a report may take: the reader wakes within 100 ms, and pods' names take up to a second.
const REPORT_TIME: Duration = Duration::from_secs(3);

/// Runs the command, or the part of it that dials, which must be a process of its own: it moves into the app's cgroup.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.dial {
        return dial::run(&settings(&args)?);
    }
    super::block_on(probe(args))
}

fn settings(args: &Args) -> anyhow::Result<DialSettings> {
    let address = args.to.resolve()?.into_iter().next().context("no address")?;
    Ok(DialSettings {
        pid: args.pid.context("--pid")?,
        to: address,
        user: args.user,
        head: explain::connect_head(&args.authority, args.http),
        timeout: args.timeout,
    })
}

async fn probe(mut args: Args) -> anyhow::Result<ExitCode> {
    let pid = process(&args).await?;
    let addresses = args.to.resolve()?;
    let Some(to) = addresses.first().copied() else { bail!("{} has no address", args.to) };
    let (admin_port, redirect_ports) = args.source.sidecar_ports();
    // Gone before anything is asked for or dialed.
    crate::netns::of_process(pid)?;
    // Meanwhile: an admin port may be silent.
    let fetch = tokio::task::spawn_blocking(move || explain::fetch(pid, admin_port));
    let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let mut source = args.source.open_within(&Query::default(), netns).await?;
    let view = dial(&args, pid, to).await?;
    let report = match view.local {
        Some(local) => wait_for(&mut source, local, to, args.timeout + REPORT_TIME).await?,
        None => None,
    };
    drop(source.finish().await?);
    let dump = fetch.await.context("the question to the admin port panicked")?;
    let head = explain::connect_head(&args.authority, args.http);
    let prediction = Prediction::of(dump.map(|dump| dump.redirected_to(&redirect_ports)), to, &head);
    let outcome = Outcome { to, name: args.to.name(), view, report, prediction };
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string(&outcome)?)?,
        Output::Text => {
            let colors = args.color.colors(std::io::stdout().is_terminal());
            out.write_all(outcome.text(colors, terminal::width(), terminal::takes_marks()).as_bytes())?;
        }
    }
    Ok(match (&outcome.report, args.fail_on) {
        (Some(report), Some(FailOn::Flagged)) if report.flagged => ExitCode::from(FailOn::FOUND),
        (Some(_), _) => ExitCode::SUCCESS,
        (None, _) => ExitCode::FAILURE,
    })
}

/// A process of the app.
async fn process(args: &Args) -> anyhow::Result<u32> {
    match (args.pid, &args.pod) {
        (Some(pid), _) => Ok(pid),
        (None, Some(pod)) => {
            let endpoint = args.source.runtime_endpoint().with_context(|| {
                format!(
                    "--pod {} needs the container runtime of the pod's node, and none is found here; name its socket with \
                     --runtime-endpoint, or use --pid with any process of the app",
                    tracer_core::escape::escape(pod)
                )
            })?;
            runtime::app_process_of(&endpoint, &scope::cgroup2_root()?, pod).await
        }
        (None, None) => bail!("say where to send from: --pid PID or --pod NS/NAME"),
    }
}

/// Starts the process that dials, and waits for what it saw.
async fn dial(args: &Args, pid: u32, to: SocketAddr) -> anyhow::Result<AppView> {
    let http = clap::ValueEnum::to_possible_value(&args.http).context("a version")?;
    let mut words = vec!["probe".to_owned(), "--dial".to_owned()];
    words.extend(["--pid".to_owned(), pid.to_string(), "--to".to_owned(), to.to_string()]);
    words.extend(["--authority".to_owned(), args.authority.clone()]);
    words.extend(["--http".to_owned(), http.get_name().to_owned()]);
    words.extend(["--timeout".to_owned(), format!("{}ms", args.timeout.as_millis())]);
    if let Some(user) = args.user {
        words.extend(["--user".to_owned(), user.to_string()]);
    }
    let run = move || {
        let mut command = std::process::Command::new(Path::new("/proc/self/exe"));
        command.args(words).env_clear().output()
    };
    let ended = tokio::task::spawn_blocking(run).await?.context("cannot start the process that dials")?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{}", said.trim().trim_start_matches("egress-tracer: "));
    }
    serde_json::from_slice(&ended.stdout).context("cannot read what the process that dials saw")
}

/// The report on the connection from `local` to `to`; `None` where none came in time.
async fn wait_for(
    source: &mut Source,
    local: SocketAddr,
    to: SocketAddr,
    patience: Duration,
) -> anyhow::Result<Option<Box<Report>>> {
    let deadline = Instant::now() + patience;
    loop {
        let Ok(message) = timeout_at(deadline, source.next()).await else { return Ok(None) };
        match message? {
            None => return Ok(None),
            Some(Message::Report(report)) if is_of(&report, local, to) => return Ok(Some(report)),
            Some(Message::Report(_) | Message::Gap(_)) => {}
        }
    }
}

fn is_of(report: &Report, local: SocketAddr, to: SocketAddr) -> bool {
    let source = SocketAddr::new(report.source.ip.to_canonical(), report.source.port);
    source == SocketAddr::new(local.ip().to_canonical(), local.port()) && SocketAddr::from(report.proxy) == to
}
