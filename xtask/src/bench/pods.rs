//! The pods that everything but the pure engine is measured in: a real Envoy, a real squid outside, and a server behind it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use lab::load::{Load, LoadGenerator, LoadResult, Tunnel};
use lab::{Envoy, Lab, PROXY, Process, Squid, SquidPolicy, TARGET, Tracer, demo_sidecar};

use crate::interrupt;
use crate::progress;

/// The proxy on a port for which Envoy has an HTTP listener: Envoy answers every CONNECT with 404.
const HANDLED: SocketAddr = SocketAddr::new(PROXY, 3128);
/// The proxy on a port without a Service: Envoy passes bytes on as TCP, and squid grants the CONNECT.
const PASSED: SocketAddr = SocketAddr::new(PROXY, 3130);
const ECHO: SocketAddr = SocketAddr::new(TARGET, 7);
const SINK: SocketAddr = SocketAddr::new(TARGET, 9);
const NAME: &str = "server.example";
const TIMEOUT: Duration = Duration::from_secs(10);
/// The benchmark needs more ephemeral ports than the default range has: each connection keeps one for a minute.
const PORTS: &str = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";

/// Starts pods. Each part of the benchmark, and each watcher in each round, has its own. A tunnel leaves two ports in
/// `TIME_WAIT` for a minute, the app's and Envoy's, and `connect` takes ports of one parity first: after 16,000 tunnels each
/// search for one walks past 32,000 that are taken, which costs 20 ms with and without a watcher.
/// <https://elixir.bootlin.com/linux/v6.12/source/net/ipv4/inet_hashtables.c> (`__inet_hash_connect`)
pub(crate) struct Pods {
    tracer: PathBuf,
    generator: LoadGenerator,
}

impl Pods {
    pub(crate) fn new(tracer: PathBuf, generator: LoadGenerator) -> Self {
        Self { tracer, generator }
    }

    pub(crate) fn start(&self) -> Result<BenchPod> {
        progress::step("Starting a pod with Envoy, squid and a server", |_| {
            BenchPod::build(self.tracer.clone(), self.generator.clone())
        })
    }

    /// Runs `work` in a new pod, and closes it.
    pub(crate) fn with_one<T>(&self, work: impl FnOnce(&BenchPod) -> Result<T>) -> Result<T> {
        let pod = self.start()?;
        let done = work(&pod)?;
        pod.close()?;
        Ok(done)
    }
}

/// A pod and everything that runs in it, in the order in which it is stopped.
pub(crate) struct BenchPod {
    pub(crate) tracer: PathBuf,
    generator: LoadGenerator,
    _server: Process,
    _envoy: Envoy,
    _squid: Squid,
    pub(crate) lab: Lab,
}

impl BenchPod {
    fn build(tracer: PathBuf, generator: LoadGenerator) -> Result<Self> {
        let lab = Lab::new()?;
        interrupt::guard(lab.janitor());
        for place in [lab.pod_root(), lab.outside()] {
            let mut command = place.command("sh")?;
            command.args(["-c", PORTS]);
            Process::run_checked(command, &[], TIMEOUT)?;
        }
        let policy = SquidPolicy {
            hosts: vec![(NAME.to_owned(), TARGET.to_string())],
            denied: Vec::new(),
            credentials: None,
        };
        let squid = Squid::start(&lab, PASSED, &policy)?;
        let server = generator.start(lab.outside(), &Load::Serve { echo: ECHO, sink: SINK })?;
        let envoy = Envoy::sidecar(&lab, &demo_sidecar())?;
        Ok(Self { tracer, generator, _server: server, _envoy: envoy, _squid: squid, lab })
    }

    /// Stops everything, and removes the pod.
    pub(crate) fn close(self) -> Result<()> {
        let Self { lab, .. } = self;
        lab.close()
    }

    /// Starts the tracer, scoped to the pod.
    pub(crate) fn observe(&self, args: &[&str]) -> Result<Tracer> {
        Tracer::start_at(&self.lab, &self.tracer, args)
    }

    /// Starts the tracer, scoped to the pod, with reports written to a file.
    pub(crate) fn observe_into(&self, file: &Path) -> Result<Tracer> {
        Tracer::start_into(&self.lab, &self.tracer, file)
    }

    /// Starts a load as the app, and returns when it has warmed up.
    pub(crate) fn start(&self, load: &Load) -> Result<Process> {
        self.generator.start(self.lab.app(), load)
    }

    /// Runs a load as the app.
    pub(crate) fn run(&self, load: &Load) -> Result<LoadResult> {
        self.generator.run(&self.lab, load)
    }

    /// A tunnel through Envoy and squid to the echo server.
    pub(crate) fn echo(seconds: f64) -> Tunnel {
        Tunnel { to: PASSED, authority: Some(format!("{NAME}:{}", ECHO.port())), seconds, turns: None }
    }

    /// A tunnel through Envoy and squid to the server that discards.
    pub(crate) fn sink(seconds: f64) -> Tunnel {
        Tunnel { to: PASSED, authority: Some(format!("{NAME}:{}", SINK.port())), seconds, turns: None }
    }

    /// A connection through Envoy to the echo server, without a proxy.
    pub(crate) fn server(seconds: f64) -> Tunnel {
        Tunnel { to: ECHO, authority: None, seconds, turns: None }
    }

    /// CONNECTs, every other one answered by Envoy itself, with ten times as many other requests.
    pub(crate) fn paced(rate: u32, count: u32) -> Load {
        let authority = format!("{NAME}:{}", ECHO.port());
        Load::Paced { proxies: vec![HANDLED, PASSED], authority, other: Some(ECHO), rate, count }
    }
}

/// Number of reports of [`BenchPod::paced`] with the expected verdict.
pub(crate) fn right(lines: &[String]) -> usize {
    let is_right = |line: &&String| {
        let Ok(report) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        match report["proxy"]["port"].as_u64() {
            Some(3128) => report["verdict"] == "handled_as_http" && report["reason"] == "route_not_found",
            Some(3130) => report["verdict"] == "tunneled",
            _ => false,
        }
    };
    lines.iter().filter(is_right).count()
}
