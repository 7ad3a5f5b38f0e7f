//! `egress-tracer agent`: the pipeline for a whole node, with metrics, health and a live stream, until a signal ends it.

use std::{io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::{pods, scope};
use crate::{
    audit::{Question, Watch},
    enrich::Enricher,
    flagged_log::FlaggedLog,
    health_server::{self, Health},
    live::{self, Live, StatusSettings},
    metrics::{self, Metrics},
    privilege,
};
use tracer_core::report::{Report, Reports};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer agent                                  all pods of this node
  egress-tracer agent --metrics-address 127.0.0.1:9475
  egress-tracer status                                 what the agent of this node does";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    pods: pods::ChoiceArgs,
    /// How many reports to keep for readers that connect later or are slow
    #[arg(long, value_name = "N", default_value_t = 4096)]
    keep: usize,
    /// Do not ask sidecars for their configuration to explain flagged sessions
    #[arg(long)]
    no_explain: bool,
    /// Which reports to write to stdout, one JSON object a line; a few a minute for each cause, the others are counted
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    log_reports: LoggedReports,
    /// Serve `/healthz` and `/readyz` at this address
    #[arg(long, value_name = "ADDRESS", default_value = HEALTH_ADDRESS)]
    health_address: SocketAddr,
    #[command(flatten)]
    live: live::SocketArgs,
    #[command(flatten)]
    scope: scope::Args,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LoggedReports {
    /// Those of sessions that a sidecar's configuration broke
    #[default]
    Flagged,
    /// All
    All,
    /// None
    None,
}

impl LoggedReports {
    fn has(self, report: &Report) -> bool {
        match self {
            Self::Flagged => report.flagged,
            Self::All => true,
            Self::None => false,
        }
    }
}

/// Where metrics are served by default.
const METRICS_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 9475);

/// Where health is served by default.
const HEALTH_ADDRESS: &str = "[::]:9476";

/// Where reports go once they are complete.
struct Sinks {
    log: FlaggedLog,
    logged: LoggedReports,
    live: Live,
    watch: Watch,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    privilege::hide_memory()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // First, as of two agents on a node the second one is to name the first.
    let socket = live::Socket::bind(&args.live.socket)?;
    let server = metrics::MetricsServer::bind(args.scope.metrics.metrics_address.unwrap_or(METRICS_ADDRESS))?;
    let (health, health_server) =
        (Arc::new(Health::default()), health_server::HealthServer::bind(args.health_address)?);
    let mut pipeline = args.scope.attach_to(args.pods.choice(), None)?;
    let metrics = Metrics::new(pipeline.probes(), &args.scope.metrics)?;
    let explains = !args.no_explain;
    // Everything that needs a capability is done, and the process still has one thread.
    let kept = privilege::give_up(pipeline.probes(), explains)?;
    log::info!("privileges: keeps {}", if kept.is_empty() { "none".to_owned() } else { kept.join(", ") });
    server.spawn(metrics.clone());
    health_server.spawn(Arc::clone(&health))?;
    let (node, family) = (args.scope.node.clone(), pipeline.probes().family());
    let settings = StatusSettings {
        node,
        family: family.name.to_owned(),
        scope: args.scope.summary(args.pods.summary()),
        explains,
        runtime: args.scope.pods.endpoint().map(|endpoint| endpoint.to_string()),
    };
    let live = Live::new(settings, args.keep);
    live::LiveServer::new(socket).spawn(live.clone());
    args.scope.write_ready_file()?;
    health.set_ready();
    let mut enricher =
        Enricher::new(explains.then_some(args.scope.admin_port), &args.scope.redirect_ports(), &metrics);
    let watch = if explains {
        let question = Question {
            head: tracer_mesh::CURL_CONNECT.to_vec(),
            redirect_ports: args.scope.redirect_ports(),
        };
        Watch::spawn(args.scope.processes(), question, args.scope.pods.endpoint(), metrics.clone())
    } else {
        Watch::default()
    };
    let mut sinks = Sinks { log: FlaggedLog::default(), logged: args.log_reports, live, watch };
    let mut reports = Reports::new();
    loop {
        tokio::select! {
            waited = pipeline.wait() => waited?,
            report = enricher.next() => {
                metrics.count(&report, Instant::now());
                sinks.take(report)?;
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        let now = Instant::now();
        health.note_turn(now);
        while pipeline.read(&mut reports)? {
            sinks.take_all(&mut reports, &mut enricher, &metrics, now)?;
        }
        write(&sinks.log.due_suppressed(now))?;
        metrics.update(&pipeline);
        sinks.live.set_waiting(pipeline.stats().pending);
        pipeline.take_gaps().into_iter().for_each(|gap| sinks.live.gap(gap));
        for pod in pipeline.take_gone() {
            metrics.forget_pod(&pod.namespace, &pod.name);
        }
    }
    pipeline.release(&mut reports);
    sinks.take_all(&mut reports, &mut enricher, &metrics, Instant::now())?;
    while enricher.is_waiting() {
        let report = enricher.next().await;
        metrics.count(&report, Instant::now());
        sinks.take(report)?;
    }
    write(&sinks.log.rest())?;
    pipeline.finish()?;
    Ok(ExitCode::SUCCESS)
}

impl Sinks {
    /// Counts reports and passes them on, at once or once they are explained.
    fn take_all(
        &mut self,
        reports: &mut Reports,
        enricher: &mut Enricher,
        metrics: &Metrics,
        now: Instant,
    ) -> std::io::Result<()> {
        for report in reports.drain(..) {
            self.watch.note(&report);
            // A flag that the sidecar's configuration contradicts is withdrawn before it is counted.
            if let Some(report) = enricher.enrich(report) {
                metrics.count(&report, now);
                self.take(report)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, report: Box<Report>) -> std::io::Result<()> {
        if self.logged.has(&report) {
            write(&self.log.lines(&report, Instant::now()))?;
        }
        self.live.report(report);
        Ok(())
    }
}

fn write(lines: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}
