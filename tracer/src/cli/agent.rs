//! `egress-tracer agent`: the same pipeline for a whole node, with metrics and health, until it is told to stop.

use std::{io::Write, net::SocketAddr, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::{pods, scope};
use crate::{
    enrich::Enricher,
    metrics::{self, Metrics},
    report::Report,
};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    scope: scope::Args,
    #[command(flatten)]
    pods: pods::Scope,
    /// Do not ask sidecars for their configuration to explain flagged sessions
    #[arg(long)]
    no_explain: bool,
}

/// Where metrics and health are served unless told otherwise.
const METRICS_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 9475);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = metrics::Server::bind(args.scope.metrics.metrics_address.unwrap_or(METRICS_ADDRESS)).await?;
    let mut tracing = args.scope.attach_to(args.pods.choice(), None)?;
    let metrics = Metrics::new(tracing.probes(), &args.scope.metrics)?;
    server.spawn(metrics.clone());
    args.scope.say_ready()?;
    metrics.set_ready();
    let mut enricher = Enricher::new((!args.no_explain).then_some(args.scope.admin_port), &metrics);
    let mut reports = Vec::new();
    loop {
        tokio::select! {
            next = tracing.next(&mut reports) => next?,
            report = enricher.next() => log(&report)?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        metrics.update(&tracing);
        for pod in tracing.take_gone() {
            metrics.forget_pod(&pod.namespace, &pod.name);
        }
        for report in reports.drain(..) {
            metrics.count(&report);
            if !report.flagged {
                continue;
            }
            if let Some(report) = enricher.enrich(report) {
                log(&report)?;
            }
        }
    }
    tracing.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A flagged session is a line of JSON in the agent's log.
fn log(report: &Report) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", report.to_json())
}
