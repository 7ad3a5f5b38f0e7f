//! Where sessions come from: the agent of this node, or probes of this process where no agent runs.

use std::{collections::VecDeque, io::IsTerminal as _, path::PathBuf, time::Instant};

use anyhow::bail;

use super::scope;
use crate::{
    enrich::Enricher,
    files::OutputFile,
    live::{self, Client, ConnectError, Query, Stream},
    metrics::{self, Metrics},
    pipeline::Pipeline,
    runtime::Endpoint,
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
}

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
                Source::Own(Box::new(self.load(query.filter.clone(), explain, record)?))
            }
            None => bail!(
                "--last and --since without --follow show what an agent has kept, and there is none here"
            ),
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
    pub(super) fn runtime_endpoint(&self) -> Option<Endpoint> {
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
            Err(ConnectError::NoAgent(_)) => {
                eprintln!(
                    "egress-tracer: no agent at {}: loading probes in this process",
                    self.live.socket.display()
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn load(&self, filter: Filter, explain: bool, record: Option<&OutputFile>) -> anyhow::Result<OwnProbes> {
        let server = match self.scope.metrics.metrics_address {
            Some(address) => Some(metrics::Server::bind(address)?),
            None => None,
        };
        let pipeline = self.scope.attach(record)?;
        let metrics = Metrics::new(pipeline.probes(), &self.scope.metrics)?;
        if let Some(server) = server {
            server.spawn(metrics.clone());
        }
        let enricher =
            Enricher::new(explain.then_some(self.scope.admin_port), &self.scope.redirect_ports(), &metrics);
        let (reports, ready) = (Reports::new(), VecDeque::new());
        Ok(OwnProbes { pipeline, metrics, enricher, filter, now: Instant::now(), reports, ready })
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
            } else if let Some(report) = self.enricher.enrich(report) {
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
