//! Where sessions come from: the agent of this node, or probes of our own where there is none. Whoever shows them need
//! not know which.

use std::{collections::VecDeque, io::IsTerminal as _, path::Path, time::Instant};

use anyhow::bail;

use super::scope;
use crate::{
    enrich::Enricher,
    live::{self, Client, Query, Stream, Trouble},
    metrics::{self, Metrics},
    pipeline::Pipeline,
};
use tracer_core::{
    filter::Filter,
    report::{Message, Reports},
};

/// What decides where sessions come from.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Args {
    /// Load probes of our own, even where an agent runs on this node; also implied by --cgroup, --netns, --probes,
    /// --metrics-address and --record
    #[arg(long, help_heading = "Source")]
    standalone: bool,
    #[command(flatten)]
    live: live::Args,
    #[command(flatten)]
    scope: scope::Args,
}

/// A source of sessions.
pub(super) enum Source {
    /// The agent.
    Agent(Stream),
    /// Probes of our own.
    Own(Box<Own>),
}

/// The whole pipeline, within this process.
pub(super) struct Own {
    tracing: Pipeline,
    metrics: Metrics,
    enricher: Enricher,
    filter: Filter,
    /// When something happened last.
    now: Instant,
    reports: Reports,
    ready: VecDeque<Message>,
}

impl Args {
    /// Opens the source. `explain`: probes of our own ask sidecars for their configuration, as agents do anyway.
    pub(super) async fn open(
        &self,
        query: &Query,
        explain: bool,
        record: Option<&Path>,
    ) -> anyhow::Result<Source> {
        let source = match self.reach(record).await? {
            Some(client) => Source::Agent(client.sessions(query).await?),
            None if query.follows() => {
                Source::Own(Box::new(self.load(query.filter.clone(), explain, record).await?))
            }
            None => bail!(
                "--last and --since without --follow show what an agent has kept, and there is none here"
            ),
        };
        self.scope.say_ready()?;
        if std::io::stderr().is_terminal() {
            match &source {
                Source::Agent(_) => eprintln!("watching through the agent of this node; Ctrl-C ends it"),
                Source::Own(own) => {
                    eprintln!("watching with {} probes; Ctrl-C ends it", own.tracing.probes().family());
                }
            }
        }
        Ok(source)
    }

    /// The agent, if there is one to ask.
    async fn reach(&self, record: Option<&Path>) -> anyhow::Result<Option<Client>> {
        let own = self.scope.needs_own_probes().or(record.map(|_| "--record"));
        if self.standalone || own.is_some() {
            return Ok(None);
        }
        match Client::connect(&self.live.socket).await {
            Ok(client) => Ok(Some(client)),
            Err(Trouble::Other(error)) => Err(error),
            Err(Trouble::Absent) => {
                eprintln!(
                    "egress-tracer: no agent at {}: loading probes of our own",
                    self.live.socket.display()
                );
                Ok(None)
            }
        }
    }

    async fn load(&self, filter: Filter, explain: bool, record: Option<&Path>) -> anyhow::Result<Own> {
        let server = match self.scope.metrics.metrics_address {
            Some(address) => Some(metrics::Server::bind(address).await?),
            None => None,
        };
        let tracing = self.scope.attach(record)?;
        let metrics = Metrics::new(tracing.probes(), &self.scope.metrics)?;
        if let Some(server) = server {
            server.spawn(metrics.clone());
        }
        metrics.set_ready();
        let enricher = Enricher::new(explain.then_some(self.scope.admin_port), &metrics);
        let (reports, ready) = (Reports::new(), VecDeque::new());
        Ok(Own { tracing, metrics, enricher, filter, now: Instant::now(), reports, ready })
    }
}

impl Source {
    /// The next line; `None`: there will be no more. Nothing is lost where this is dropped half-way.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        match self {
            Self::Agent(stream) => stream.next().await,
            Self::Own(own) => own.next().await.map(Some),
        }
    }

    /// The next line, if it can be had without waiting.
    pub(super) fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        match self {
            Self::Agent(stream) => stream.next_ready(),
            Self::Own(own) => own.next_ready(),
        }
    }

    /// Ends it, and gives back what was on its way.
    pub(super) async fn finish(self) -> anyhow::Result<Vec<Message>> {
        match self {
            Self::Agent(_) => Ok(Vec::new()),
            Self::Own(own) => own.finish().await,
        }
    }
}

impl Own {
    async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            if let Some(message) = self.next_ready()? {
                return Ok(message);
            }
            self.metrics.update(&self.tracing);
            tokio::select! {
                waited = self.tracing.wait() => waited?,
                report = self.enricher.next() => self.ready.push_back(Message::Report(report)),
            }
            self.now = Instant::now();
        }
    }

    fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let is_all = !self.tracing.read(&mut self.reports)?;
            self.sort_out();
            if is_all && self.ready.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Counts what was read, and puts what is wanted of it where it is given out, or explained first.
    fn sort_out(&mut self) {
        self.ready.extend(self.tracing.take_gaps().into_iter().map(Message::Gap));
        for pod in self.tracing.take_gone() {
            self.metrics.forget_pod(&pod.namespace, &pod.name);
        }
        for report in self.reports.drain(..) {
            self.metrics.count(&report, self.now);
            if self.filter.matches(&report) {
                self.ready.extend(self.enricher.enrich(report).map(Message::Report));
            }
        }
    }

    async fn finish(mut self) -> anyhow::Result<Vec<Message>> {
        self.tracing.release(&mut self.reports);
        self.sort_out();
        let mut rest = Vec::from(self.ready);
        while self.enricher.is_waiting() {
            rest.push(Message::Report(self.enricher.next().await));
        }
        self.tracing.finish()?;
        Ok(rest)
    }
}
