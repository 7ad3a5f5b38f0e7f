//! `egress-tracer audit`: what would become of CONNECTs, for every sidecar and every proxy, before anyone sends one.

use std::{
    collections::{BTreeSet, HashMap},
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::{output::FailOn, pods, scope};
use crate::{
    audit::{
        AuditSubject, AuditedSidecar, ConfigSource, Counts, ProcessScope, ProxyUse, Question, SeenProxies,
        audit, json, on_node, table,
    },
    explain::{self, HttpVersion, ProxyTarget},
    live::{Client, ConnectError, Query, SocketArgs},
    runtime::container_names,
    terminal::{self, Color},
};
use tracer_core::{escape::escape, mesh_profile::DEFAULT, report::Message};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer audit                                        every sidecar of this node, every proxy of its apps
  egress-tracer audit --to proxy.corp:3128 -n shop           would this proxy work for namespace shop?
  egress-tracer audit --config-dump dumps/ --to 10.0.0.1:3128 --fail-on flagged
  egress-tracer audit -o json | jq -r 'select(.flagged) | .pod'";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Also ask about this proxy, an address or a name; may be repeated. Without it: the proxies of the apps' environment
    /// variables, and those that the agent saw sessions to
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    to: Vec<ProxyTarget>,
    /// Read saved dumps in place of running sidecars: a file, a directory, a bug report's archive; may be repeated
    #[arg(long, value_name = "PATH", requires = "to", conflicts_with_all = ["pid", "cgroup"])]
    config_dump: Vec<PathBuf>,
    /// Only the sidecar in the network namespace of this process; may be repeated
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Only this pod; may be repeated
    #[arg(long, value_name = "NS/NAME")]
    pod: Vec<String>,
    /// Only pods of this namespace; may be repeated
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Vec<String>,
    /// Only processes in this cgroup v2 directory or below it
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// The target of the CONNECT
    #[arg(long, value_name = "HOST:PORT", default_value = "example.com:443", value_parser = explain::authority)]
    authority: String,
    /// The version of HTTP that the apps speak to their proxy
    #[arg(long, value_enum, value_name = "VERSION", default_value_t)]
    http: HttpVersion,
    /// The sidecars' admin port
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT.admin_port)]
    admin_port: u16,
    /// A port that receives the apps' redirected connections, where several listeners could; may be repeated
    #[arg(long, value_name = "PORT", default_values_t = [DEFAULT.outbound_port])]
    sidecar_port: Vec<u16>,
    #[command(flatten)]
    pods: pods::RuntimeArgs,
    #[command(flatten)]
    live: SocketArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// Exit with 3 if a session would be flagged, and with 4 if nothing could be judged
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    /// Color in the table
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// One object a line
    Json,
}

/// The exit code of `--fail-on` where nothing could be judged.
const NOTHING: u8 = 4;

/// How many sidecars that were not read are said to be so in a sentence.
const SAID: usize = 5;

/// Configurations that are held at once.
const AT_ONCE: usize = 4;

/// How long an agent may take to hand over the sessions that it has kept.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let subjects = if args.config_dump.is_empty() { running(&args).await? } else { saved(&args)? };
    let question = Question {
        head: explain::connect_head(&args.authority, args.http),
        redirect_ports: args.sidecar_port.clone(),
    };
    let mut audited = audit(subjects, &question, AT_ONCE);
    let before = audited.len();
    audited.retain(|sidecar| is_wanted(&args, &sidecar.name));
    if audited.is_empty() {
        bail!("{}", nothing(&args, before));
    }
    let counts = Counts::of(&audited);
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Json => json(&audited, &mut out)?,
        Output::Table => {
            let colors = args.color.colors(std::io::stdout().is_terminal());
            out.write_all(table(&audited, colors, terminal::width(), terminal::takes_marks()).as_bytes())?;
        }
    }
    out.flush()?;
    let failed = audited.iter().filter_map(|sidecar| Some((&sidecar.name, sidecar.error.as_ref()?)));
    // The table has room for the beginning of a sentence only.
    for (name, error) in failed.take(if args.output == Output::Table { SAID } else { 0 }) {
        eprintln!("egress-tracer: {}: {}", escape(name), escape(error));
    }
    eprintln!("{}", counts.text());
    Ok(exit_code(args.fail_on, counts, &audited))
}

fn exit_code(fail_on: Option<FailOn>, counts: Counts, audited: &[AuditedSidecar]) -> ExitCode {
    let judged = audited.iter().flat_map(|sidecar| &sidecar.pairs).any(|pair| pair.verdict.is_some());
    match fail_on {
        Some(FailOn::Flagged) if counts.flagged > 0 => ExitCode::from(FailOn::FOUND),
        Some(FailOn::Flagged) if !judged => ExitCode::from(NOTHING),
        _ => ExitCode::SUCCESS,
    }
}

/// The filters hold for saved dumps and running sidecars alike: the dump itself names its pod.
fn is_wanted(args: &Args, name: &str) -> bool {
    let namespace = name.split_once('/').map(|(namespace, _)| namespace);
    (args.pod.is_empty() || args.pod.iter().any(|pod| pod == name))
        && (args.namespace.is_empty()
            || args.namespace.iter().any(|wanted| Some(wanted.as_str()) == namespace))
}

/// Why there is nothing to show.
fn nothing(args: &Args, before: usize) -> String {
    if before > 0 {
        return format!(
            "none of the {before} sidecars is of the chosen pods and namespaces; leave the filter out to see all"
        );
    }
    if !args.config_dump.is_empty() {
        return "no dump was found".to_owned();
    }
    format!(
        "no sidecar was found: no other network namespace here listens on port {} (--admin-port); pods of other nodes are \
         not seen, and in a container this needs hostPID and root",
        args.admin_port
    )
}

fn saved(args: &Args) -> anyhow::Result<Vec<AuditSubject>> {
    let proxies: ProxyUse =
        args.to.iter().map(|target| (target.clone(), BTreeSet::from(["given".to_owned()]))).collect();
    let mut subjects = Vec::new();
    for path in &args.config_dump {
        explain::find(path, &mut |found| match found {
            Ok(found) => subjects.push(AuditSubject {
                pod: found.pod.clone(),
                label: found.label.clone(),
                source: ConfigSource::Found(found),
                proxies: proxies.clone(),
                findings: Vec::new(),
            }),
            Err(error) => eprintln!("egress-tracer: left out: {error:#}"),
        })?;
    }
    Ok(subjects)
}

async fn running(args: &Args) -> anyhow::Result<Vec<AuditSubject>> {
    let containers = match args.pods.endpoint() {
        Some(endpoint) => container_names(&endpoint).await.unwrap_or_else(|error| {
            eprintln!("egress-tracer: pods are named by their sidecars only: {error:#}");
            HashMap::new()
        }),
        None => HashMap::new(),
    };
    let cgroup = args.cgroup.as_ref().map(|dir| {
        let root = scope::cgroup2_root()?;
        let found =
            dir.canonicalize().with_context(|| format!("cannot find the cgroup {}", dir.display()))?;
        if !found.starts_with(&root) {
            bail!("{} is not a cgroup v2 directory; they are below {}", dir.display(), root.display());
        }
        Ok(found)
    });
    for pid in &args.pid {
        crate::netns::of_process(*pid)?;
    }
    let scope =
        ProcessScope { pids: args.pid.clone(), cgroup: cgroup.transpose()?, admin_port: args.admin_port };
    let seen = seen(args).await;
    let mut subjects = on_node(&scope, &containers, &seen, &args.to)?;
    // A pod that the runtime names need not be asked to be left out.
    subjects.retain(|subject| subject.pod.as_ref().is_none_or(|pod| is_wanted(args, pod)));
    Ok(subjects)
}

/// The proxies of the sessions that the agent of this node has kept; none where no agent runs.
async fn seen(args: &Args) -> SeenProxies {
    let mut seen = SeenProxies::default();
    let ask = async {
        let client = match Client::connect(&args.live.socket).await {
            Ok(client) => client,
            Err(ConnectError::NoAgent(_)) => return Ok(()),
            Err(error) => return Err(anyhow::Error::from(error)),
        };
        let mut stream =
            client.sessions(&Query { last: Some(u64::from(u32::MAX)), ..Query::default() }).await?;
        while let Some(message) = stream.next().await? {
            if let Message::Report(report) = message {
                seen.note(&report);
            }
        }
        Ok(())
    };
    match timeout(PATIENCE, ask).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("egress-tracer: without the sessions that the agent saw: {error:#}"),
        Err(_) => eprintln!(
            "egress-tracer: without the sessions that the agent saw: it did not answer at {} within {PATIENCE:?}",
            escape(&args.live.socket.display().to_string())
        ),
    }
    seen
}
