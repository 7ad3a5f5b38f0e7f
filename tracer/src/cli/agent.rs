//! `egress-tracer agent`: the same pipeline for a whole node, with metrics and health, until it is told to stop.

use std::{net::SocketAddr, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::scope;
use crate::metrics::{self, Metrics};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    scope: scope::Args,
}

/// Where metrics and health are served unless told otherwise.
const METRICS_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 9475);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = metrics::Server::bind(args.scope.metrics.metrics_address.unwrap_or(METRICS_ADDRESS)).await?;
    let mut tracing = args.scope.attach(None)?;
    let metrics = Metrics::new(tracing.probes(), &args.scope.metrics)?;
    server.spawn(metrics.clone());
    args.scope.say_ready()?;
    metrics.set_ready();
    let mut reports = Vec::new();
    loop {
        tokio::select! {
            next = tracing.next(&mut reports) => next?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        metrics.update(&tracing);
        for report in reports.drain(..) {
            metrics.count(&report);
            if report.flagged {
                println!("{}", report.to_json());
            }
        }
    }
    tracing.finish()?;
    Ok(ExitCode::SUCCESS)
}
