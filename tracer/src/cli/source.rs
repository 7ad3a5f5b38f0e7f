//! Where sessions come from: the agent of this node, or probes of this process where no agent runs.

use std::{collections::VecDeque, io::IsTerminal as _, path::PathBuf, time::Instant};

use anyhow::bail;

use super::scope;
use crate::{
    enrich::Enricher,
    files::OutputFile,
    live::{self, Client, ConnectError, Query, Status, Stream},
    metrics::{self, Metrics},
    pipeline::Pipeline,
    privilege,
    runtime::{RuntimeEndpoint, container_names},
};
use tracer_core::{
    filter::Filter,
    report::{Message, Reports},
};

/// The arguments that decide where sessions come from.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Args {
    /// Load probes in this process even where an agent runs on this node; --cgroup, --netns, --family,
    /// --metrics-address and --record imply it
    #[arg(long, help_heading = "Source")]
    standalone: bool,
    #[command(flatten)]
    live: live::SocketArgs,
    #[command(flatten)]
    scope: scope::Args,
}

/// What to look at where no session was seen.
const NOTHING_SEEN: &str = "no app here has sent a CONNECT or an absolute-form request; is the app's pod on this node, and does \
                            it use the proxy (HTTPS_PROXY, NO_PROXY)?";

/// A source of sessions.
pub(super) enum Source {
    /// The agent.
    Agent(Stream),
    /// Probes of this process.
    Own(Box<OwnProbes>),
}

/// The whole pipeline, within this process.
pub(super) struct OwnProbes {
    pipeline: Pipeline,
    metrics: Metrics,
    enricher: Enricher,
    filter: Filter,
    /// When the pipeline last woke.
    now: Instant,
    reports: Reports,
    ready: VecDeque<Message>,
    /// Whether a report has passed the filter.
    has_passed: bool,
    /// The first reports that did not, while none has.
    left_out: Reports,
}

/// How many reports are looked at to say what there is where a filter leaves nothing.
const LOOKED_AT: usize = 1_000;

impl Args {
    /// Opens the source. With `explain`, probes of this process ask sidecars for their configuration; an agent decides
    /// for itself.
    pub(super) async fn open(
        &self,
        query: &Query,
        explain: bool,
        record: Option<&OutputFile>,
    ) -> anyhow::Result<Source> {
        let source = match self.reach(record).await? {
            Some(client) => Source::Agent(client.sessions(query).await?),
            None if query.follows() => {
                self.require_names(&query.filter).await?;
                Source::Own(Box::new(self.load(query.filter.clone(), explain, record)?))
            }
            None => bail!("--last, --since and --until show what an agent has kept, and there is none here"),
        };
        self.scope.write_ready_file()?;
        if std::io::stderr().is_terminal() {
            match &source {
                Source::Agent(_) => eprintln!("watching through the agent of this node; Ctrl-C ends it"),
                Source::Own(own) => {
                    eprintln!("watching with {} probes; Ctrl-C ends it", own.pipeline.probes().family());
                }
            }
        }
        Ok(source)
    }

    /// Opens the source; probes of this process see only the network namespace `netns`, unless a scope was given.
    pub(super) async fn open_within(&mut self, query: &Query, netns: PathBuf) -> anyhow::Result<Source> {
        if let Some(client) = self.reach(None).await? {
            return Ok(Source::Agent(client.sessions(query).await?));
        }
        self.scope.limit_to(netns);
        let own = self.load(query.filter.clone(), false, None)?;
        self.scope.write_ready_file()?;
        Ok(Source::Own(Box::new(own)))
    }

    /// The admin port of sidecars, and the ports that receive redirected connections.
    pub(super) fn sidecar_ports(&self) -> (u16, Vec<u16>) {
        (self.scope.admin_port, self.scope.redirect_ports())
    }

    /// The container runtime.
    pub(super) fn runtime_endpoint(&self) -> Option<RuntimeEndpoint> {
        self.scope.pods.endpoint()
    }

    /// A client of the agent, where one runs and can serve what was asked for.
    async fn reach(&self, record: Option<&OutputFile>) -> anyhow::Result<Option<Client>> {
        let own = self.scope.needs_own_probes().or(record.map(|_| "--record"));
        if self.standalone || own.is_some() {
            return Ok(None);
        }
        match Client::connect(&self.live.socket).await {
            Ok(client) => Ok(Some(client)),
            Err(ConnectError::NoAgent(path)) => {
                if let Some(missing) = privilege::missing_for_probes() {
                    bail!("no agent listens at {}, and {missing}", path.display());
                }
                eprintln!(
                    "egress-tracer: no agent at {}: loading probes in this process",
                    self.live.socket.display()
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fails where the filter needs names and no runtime tells them: no session would ever pass.
    async fn require_names(&self, filter: &Filter) -> anyhow::Result<()> {
        if !filter.needs_names() {
            return Ok(());
        }
        let Some(endpoint) = self.scope.pods.endpoint() else {
            bail!(
                "namespaces, pods, workloads and labels are known to the container runtime only, and none is found here; name \
                 its socket with --runtime-endpoint, or filter by --to, --authority, --cgroup or --netns"
            );
        };
        container_names(&endpoint).await.map(drop)
    }

    fn load(&self, filter: Filter, explain: bool, record: Option<&OutputFile>) -> anyhow::Result<OwnProbes> {
        let server = match self.scope.metrics.metrics_address {
            Some(address) => Some(metrics::MetricsServer::bind(address)?),
            None => None,
        };
        let pipeline = self.scope.attach(record)?;
        let metrics = Metrics::new(pipeline.probes(), &self.scope.metrics)?;
        if let Some(server) = server {
            server.spawn(metrics.clone());
        }
        let enricher =
            Enricher::new(explain.then_some(self.scope.admin_port), &self.scope.redirect_ports(), &metrics);
        Ok(OwnProbes {
            pipeline,
            metrics,
            enricher,
            filter,
            now: Instant::now(),
            reports: Reports::new(),
            ready: VecDeque::new(),
            has_passed: false,
            left_out: Reports::new(),
        })
    }

    /// The status of the agent.
    pub(super) async fn status(&self) -> anyhow::Result<Status> {
        self.agent().await
    }

    /// The status of the agent, for a task of its own.
    pub(super) fn agent(&self) -> impl Future<Output = anyhow::Result<Status>> + use<> {
        let socket = self.live.socket.clone();
        async move { Client::connect(&socket).await?.status().await }
    }

    /// The node's name, as it was given.
    pub(super) fn node(&self) -> Option<&str> {
        self.scope.node.as_deref()
    }

    /// Why none of the sessions that the agent has kept passes the filter; `None`: one does, or there is none yet.
    pub(super) async fn mismatch_so_far(&self, query: &Query) -> Option<String> {
        let kept = Client::connect(&self.live.socket).await.ok()?.kept(LOOKED_AT as u64).await.ok()?;
        query.filter.nothing_because(&kept)
    }

    /// Why a query has no session, in a sentence with what there is. `left_out` are reports that did not pass its filter;
    /// `None`: the agent is asked for them.
    pub(super) async fn nothing_because(
        &self,
        query: &Query,
        left_out: Option<Reports>,
    ) -> anyhow::Result<String> {
        if let Some(left_out) = left_out {
            return Ok(query.filter.nothing_because(&left_out).unwrap_or_else(|| NOTHING_SEEN.to_owned()));
        }
        let status = self.status().await?;
        let kept = Client::connect(&self.live.socket).await?.kept(LOOKED_AT as u64).await?;
        if let Some(sentence) = query.filter.nothing_because(&kept) {
            return Ok(sentence);
        }
        let waiting = match status.waiting.unwrap_or_default() {
            0 => String::new(),
            waiting => format!("; {waiting} seen ones have no answer yet"),
        };
        Ok(match kept.last() {
            None => format!("the agent has seen no session yet{waiting}: {NOTHING_SEEN}"),
            Some(last) => format!(
                "the agent has kept {} sessions, the last one of {}, and none of the time that was asked for{waiting}",
                status.kept,
                tracer_core::escape::escape(&last.time)
            ),
        })
    }
}

impl Source {
    /// The next message; `None` at the end. Cancel-safe: a message is not lost when the future is dropped.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        match self {
            Self::Agent(stream) => stream.next().await,
            Self::Own(own) => own.next().await.map(Some),
        }
    }

    /// The next message, if one is ready.
    pub(super) fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        match self {
            Self::Agent(stream) => stream.next_ready(),
            Self::Own(own) => own.next_ready(),
        }
    }

    /// Reports that did not pass the filter, where none did. `None`: the agent knows.
    pub(super) fn take_left_out(&mut self) -> Option<Reports> {
        match self {
            Self::Agent(_) => None,
            Self::Own(own) => Some(std::mem::take(&mut own.left_out)),
        }
    }

    /// How many requests wait for their answer. `None`: the agent knows.
    pub(super) fn waiting(&self) -> Option<usize> {
        match self {
            Self::Agent(_) => None,
            Self::Own(own) => Some(own.pipeline.stats().pending),
        }
    }

    /// Ends the source and returns the messages that were still on their way.
    pub(super) async fn finish(self) -> anyhow::Result<Vec<Message>> {
        match self {
            Self::Agent(_) => Ok(Vec::new()),
            Self::Own(own) => own.finish().await,
        }
    }
}

impl OwnProbes {
    async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            if let Some(message) = self.next_ready()? {
                return Ok(message);
            }
            self.metrics.update(&self.pipeline);
            tokio::select! {
                waited = self.pipeline.wait() => waited?,
                report = self.enricher.next() => {
                    self.metrics.count(&report, self.now);
                    self.ready.push_back(Message::Report(report));
                }
            }
            self.now = Instant::now();
        }
    }

    fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let is_all = !self.pipeline.read(&mut self.reports)?;
            self.sort_reports();
            if is_all && self.ready.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Counts what was read, and queues the reports that pass the filter, explained where that is asked for.
    fn sort_reports(&mut self) {
        self.ready.extend(self.pipeline.take_gaps().into_iter().map(Message::Gap));
        for pod in self.pipeline.take_gone() {
            self.metrics.forget_pod(&pod.namespace, &pod.name);
        }
        for report in self.reports.drain(..) {
            if !self.filter.matches(&report) {
                self.metrics.count(&report, self.now);
                if !self.has_passed && self.left_out.len() < LOOKED_AT {
                    self.left_out.push(report);
                }
                continue;
            }
            (self.has_passed, self.left_out) = (true, Vec::new());
            if let Some(report) = self.enricher.enrich(report) {
                self.metrics.count(&report, self.now);
                self.ready.push_back(Message::Report(report));
            }
        }
    }

    async fn finish(mut self) -> anyhow::Result<Vec<Message>> {
        self.pipeline.release(&mut self.reports);
        self.sort_reports();
        let mut rest = Vec::from(self.ready);
        while self.enricher.is_waiting() {
            let report = self.enricher.next().await;
            self.metrics.count(&report, self.now);
            rest.push(Message::Report(report));
        }
        self.pipeline.finish()?;
        Ok(rest)
    }
}
