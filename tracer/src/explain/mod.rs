//! `egress-tracer explain`: what the sidecar's configuration says about connections to a proxy, and what to change. It
//! fetches or reads the configuration, and prints; [`tracer_mesh`] decides.

mod admin;
mod answer;
mod archive;
mod config_cache;
mod input;
mod request;
mod resource;
mod source;
mod target;
mod text;
mod ztunnel;

use std::io::{IsTerminal as _, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use jiff::Timestamp;

pub use archive::{FoundDump, find};
pub use config_cache::{AdminEndpoint, Answer as ConfigAnswer, Fetches, Sidecars};
pub use request::{HttpVersion, authority};
pub use target::{ProxyHost, ProxyScheme, ProxyTarget};

use crate::netns;
use crate::runtime::RuntimeEndpoint;
use crate::terminal::{self, Color};
use answer::{Answer, Tried, Unanswered};
use request::Request;
use source::Source;
use text::Layout;
use tracer_core::mesh_profile::DEFAULT;
use tracer_mesh::{Dump, Explanation, Tryout};

/// What `--help` shows below.
pub(crate) const EXAMPLES: &str = "\
Examples:
  egress-tracer explain --pod shop/cart-7d9 --to proxy.corp:3128
  egress-tracer explain --pid 4711 --to 10.0.0.1:3128 --to 10.0.0.2:3128 -o yaml > fix.yaml
  egress-tracer explain --config-dump bug-report.tar.gz --pod shop/cart-7d9 --to 10.0.0.1:3128
  egress-tracer explain --config-dump dump.json --to 10.0.0.1:3128 --try candidate.yaml
  curl -s 127.0.0.1:15000/config_dump?include_eds | egress-tracer explain --config-dump - --to 10.0.0.1:3128";

/// The arguments of `egress-tracer explain`. Without a source, the sidecar in this process's own network namespace is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The proxy as the app dials it, an address or a name; repeat it for every address of the proxy
    #[arg(long, required = true, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub to: Vec<ProxyTarget>,
    /// Read the configuration from a file: a dump, its parts (repeat it), a bug report's archive or directory; JSON or YAML,
    /// plain or gzip; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub config_dump: Vec<PathBuf>,
    /// Ask the sidecar in the network namespace of this process [default: where this command runs]
    #[arg(long, value_name = "PID", conflicts_with_all = ["config_dump", "pod"])]
    pub pid: Option<u32>,
    /// Ask the sidecar of this pod on this node; with --config-dump, choose this pod's dump of several
    #[arg(long, value_name = "[NS/]NAME")]
    pub pod: Option<String>,
    /// The pod's namespace: of a --pod without one, and of fixes where the configuration does not name it
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The container runtime's socket, which knows the pod, such as /run/containerd/containerd.sock [default: found]
    #[arg(long, value_name = "SOCKET", env = "CONTAINER_RUNTIME_ENDPOINT")]
    pub runtime_endpoint: Option<RuntimeEndpoint>,
    /// The target of the app's CONNECT
    #[arg(long, value_name = "HOST:PORT", default_value = "example.com:443", value_parser = request::authority)]
    pub authority: String,
    /// The version of HTTP that the app speaks to its proxy
    #[arg(long, value_enum, value_name = "VERSION", default_value_t)]
    pub http: HttpVersion,
    /// The app's first bytes, in place of a CONNECT as curl writes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authority", "http"])]
    pub head: Option<PathBuf>,
    /// The sidecar's admin port
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT.admin_port)]
    pub admin_port: u16,
    /// A port that receives the app's redirected connections, where several listeners could; may be repeated
    #[arg(long, value_name = "PORT", default_values_t = [DEFAULT.outbound_port])]
    pub sidecar_port: Vec<u16>,
    /// What to print: the explanation, one JSON object for each address, or a fix's manifest alone
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Print this fix alone; with `-o yaml`, the first is the default
    #[arg(long, value_name = "N")]
    pub fix: Option<usize>,
    /// Say what this object would change, without applying it: a ServiceEntry, Service, DestinationRule, Sidecar or a pod's
    /// annotations, as YAML or JSON
    #[arg(long = "try", value_name = "FILE")]
    pub candidate: Option<PathBuf>,
    /// Also show the steps of the decision, and each fix with its proof and manifest
    #[arg(short, long)]
    pub verbose: bool,
    /// Color in the text
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// What `-o` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One object a line.
    Json,
    /// A fix's manifest.
    Yaml,
}

impl Args {
    /// Replaces the pod by a process in it.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid: Some(pid), pod: None, ..self }
    }

    /// The pod that a container runtime has to find.
    pub fn pod_to_find(&self) -> Option<String> {
        self.whole_pod().filter(|_| self.config_dump.is_empty())
    }

    /// The pod with its namespace, as far as it was given.
    fn whole_pod(&self) -> Option<String> {
        let pod = self.pod.as_ref()?;
        Some(match &self.namespace {
            Some(namespace) if !pod.contains('/') => format!("{namespace}/{pod}"),
            _ => pod.clone(),
        })
    }
}

/// The configuration of the sidecar in the network namespace of process `pid`, as its admin port gives it.
pub fn fetch(pid: u32, admin_port: u16) -> anyhow::Result<Dump> {
    Source::Process { pid, admin_port }.load()
}

/// The versions of the configuration of the sidecar in the network namespace of process `pid`: text that changes when it
/// does.
pub fn versions(pid: u32, admin_port: u16) -> anyhow::Result<Vec<u8>> {
    netns::run_in(&netns::of_process(pid)?, || admin::versions(admin_port))?
}

/// The first bytes of an app that sends this CONNECT, as curl writes it.
pub fn connect_head(authority: &str, version: HttpVersion) -> Vec<u8> {
    Request::connect(authority, version).head
}

/// A configuration from the bytes of a dump in any form.
pub fn read(found: FoundDump) -> anyhow::Result<Dump> {
    source::load(vec![found.bytes])
}

/// Runs the command. An error is one sentence on what was tried and what to do; its exit code is 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match print(args, &mut out) {
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

/// One address to ask about.
struct Asked {
    to: SocketAddr,
    name: Option<String>,
    assumed_port: Option<u16>,
}

/// Runs the command and writes its answer to `out`. The exit code is 1 where an address could not be answered.
pub fn print(args: &Args, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let request = match &args.head {
        Some(path) => Request::of_file(path)?,
        None => Request::connect(&args.authority, args.http),
    };
    let candidate = args.candidate.as_deref().map(candidate_objects).transpose()?;
    let source = Source::of(args)?;
    let dump = source
        .load()?
        .redirected_to(&args.sidecar_port)
        .taken_at(Timestamp::now().as_second())
        .of_namespace(args.namespace.clone());
    let (asked, mut unanswered) = resolved(&args.to);
    let mut addresses = Vec::new();
    for one in &asked {
        match tracer_mesh::decide(&dump, one.to, &request.head) {
            Ok(_) => addresses.push(one.to),
            Err(error) => unanswered.push(Unanswered::new(one.to.to_string(), &error.into())),
        }
    }
    if let ([], [first, ..]) = (addresses.as_slice(), unanswered.as_slice()) {
        bail!("{}: {}", first.to, first.error);
    }
    let explanations = tracer_mesh::explain(&dump, &addresses, &request.head)
        .with_context(|| format!("cannot use {source}"))?;
    let mut answers = Vec::new();
    for mut explanation in explanations {
        let asked = asked.iter().find(|asked| asked.to == explanation.to);
        let tried = candidate
            .as_ref()
            .map(|objects| tried(&dump, objects, &explanation, &request.head))
            .transpose()
            .context("cannot try the candidate")?;
        if let Some(request) = &request.assumed {
            let text = format!("the app sends {request} (--authority, --http, --head)");
            explanation.assumed.insert("request", text);
        }
        if let Some(port) = asked.and_then(|asked| asked.assumed_port) {
            explanation.assumed.insert("port", format!("the proxy's port is {port} (--to HOST:PORT)"));
        }
        answers.push(Answer { name: asked.and_then(|asked| asked.name.clone()), explanation, tried });
    }
    write_answers(args, &answers, &unanswered, dump.unreadable, out)?;
    out.flush()?;
    Ok(if unanswered.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The addresses of all targets, each once, and the targets that have none.
fn resolved(targets: &[ProxyTarget]) -> (Vec<Asked>, Vec<Unanswered>) {
    let (mut asked, mut unanswered) = (Vec::<Asked>::new(), Vec::new());
    for target in targets {
        match target.resolve() {
            Ok(addresses) => {
                let new = addresses.into_iter().filter(|to| !asked.iter().any(|known| known.to == *to));
                let new: Vec<Asked> = new
                    .map(|to| Asked {
                        to,
                        name: target.name(),
                        assumed_port: target.is_port_assumed.then_some(target.port),
                    })
                    .collect();
                asked.extend(new);
            }
            Err(error) => unanswered.push(Unanswered::new(target.to_string(), &error)),
        }
    }
    (asked, unanswered)
}

/// The objects in the file of `--try`.
fn candidate_objects(path: &std::path::Path) -> anyhow::Result<Vec<serde_json::Value>> {
    let name = || format!("cannot use the candidate {}", path.display());
    let file = std::fs::File::open(path).with_context(name)?;
    let bytes = archive::bounded(file, 1 << 20).with_context(name)?;
    let text = String::from_utf8(bytes).with_context(name)?;
    let objects =
        input::yaml_documents(&text).map_err(|error| anyhow::anyhow!("it {error}")).with_context(name)?;
    let objects: Vec<_> = objects.into_iter().filter(serde_json::Value::is_object).collect();
    if objects.is_empty() {
        bail!("{}: it holds no object", name());
    }
    Ok(objects)
}

/// What becomes of the connection with the objects laid over the dump.
fn tried(
    dump: &Dump,
    objects: &[serde_json::Value],
    explanation: &Explanation,
    head: &[u8],
) -> anyhow::Result<Tried> {
    let Tryout { edit, caveats, notes } =
        tracer_mesh::try_objects(dump, objects, &explanation.decision, explanation.to)?;
    let mut decision = tracer_mesh::decide_with(dump, &edit, explanation.to, head)?;
    decision.certain &= caveats.is_empty();
    Ok(Tried {
        reaches_proxy: decision.reaches_proxy(),
        decision,
        candidate_caveats: caveats,
        candidate_notes: notes,
    })
}

fn write_answers(
    args: &Args,
    answers: &[Answer],
    unanswered: &[Unanswered],
    unreadable: usize,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let layout = Layout {
        colors: args.color.colors(std::io::stdout().is_terminal()),
        width: terminal::width(),
        marks: terminal::takes_marks(),
        verbose: args.verbose,
    };
    match args.output {
        Output::Text => match args.fix {
            Some(number) => {
                let fix = chosen_fix(answers, number)?;
                out.write_all(text::one_fix(number - 1, fix, layout).as_bytes())?;
            }
            None => out.write_all(text::text(answers, unanswered, unreadable, layout).as_bytes())?,
        },
        Output::Json => {
            for answer in answers {
                serde_json::to_writer(&mut *out, answer)?;
                out.write_all(b"\n")?;
            }
            for failed in unanswered {
                serde_json::to_writer(&mut *out, failed)?;
                out.write_all(b"\n")?;
            }
        }
        Output::Yaml => {
            for failed in unanswered {
                eprintln!("{}: not answered: {}", failed.to, failed.error);
            }
            if args.fix.is_none() && !answers.iter().any(|answer| answer.explanation.decision.is_fault()) {
                eprintln!("Nothing to change: the sidecar passes these connections on as TCP.");
                return Ok(());
            }
            let fix = chosen_fix(answers, args.fix.unwrap_or(1))?;
            out.write_all(text::manifest(fix, answers).as_bytes())?;
        }
    }
    Ok(())
}

/// Fix `number`, counted from 1.
fn chosen_fix(answers: &[Answer], number: usize) -> anyhow::Result<&tracer_mesh::Fix> {
    let fixes = answers.first().map_or(&[][..], |first| &first.explanation.fixes);
    let fix = number.checked_sub(1).and_then(|index| fixes.get(index));
    match (fix, fixes.len()) {
        (Some(fix), _) => Ok(fix),
        (None, 0) => bail!(
            "no change of ours was proven to mend this; see why with: egress-tracer explain -o text (same arguments)"
        ),
        (None, 1) => bail!("there is no fix {number}: there is one, --fix 1"),
        (None, count) => bail!("there is no fix {number}: there are {count}, --fix 1 to --fix {count}"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        || error
            .downcast_ref::<serde_json::Error>()
            .is_some_and(|error| error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
}
