//! `egress-tracer observe`: sessions as they happen, one a line.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{output, scope};
use crate::{
    enrich::Enricher,
    filter::Filter,
    metrics::{self, Metrics},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer observe --standalone --cgroup /sys/fs/cgroup/kubepods.slice
  egress-tracer observe --flagged -o json | jq .explanation
  egress-tracer observe --first 1 --timeout 30s --fail-on flagged";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    scope: scope::Args,
    /// Load probes of its own, even where an agent runs on this node
    #[arg(long)]
    standalone: bool,
    /// Stop after N reports
    #[arg(long, value_name = "N")]
    first: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    filter: Filter,
    /// Exit with 3 if such a session was seen
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    output: output::Args,
    /// Also write what was seen to this file, secrets masked, for `egress-tracer replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Flagged,
}

/// `--fail-on` saw what it was told to look for.
const SEEN: u8 = 3;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before anything is attached: a signal from here on ends the run in good order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut printer = args.output.printer()?;
    let server = match args.scope.metrics.metrics_address {
        Some(address) => Some(metrics::Server::bind(address).await?),
        None => None,
    };
    let mut tracing = args.scope.attach(args.record.as_deref())?;
    let metrics = Metrics::new(tracing.probes(), &args.scope.metrics)?;
    if let Some(server) = server {
        server.spawn(metrics.clone());
    }
    args.scope.say_ready()?;
    metrics.set_ready();
    if std::io::stderr().is_terminal() {
        eprintln!("watching with {} probes; Ctrl-C ends it", tracing.probes().family());
    }

    let mut enricher = Enricher::new(args.output.explains().then_some(args.scope.admin_port), &metrics);
    let timeout = tokio::time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let mut reports = Vec::new();
    let (mut chosen, mut flagged) = (0, false);
    let is_enough = |chosen: u64| args.first.is_some_and(|first| chosen >= first);
    while !is_enough(chosen) {
        tokio::select! {
            next = tracing.next(&mut reports) => next?,
            report = enricher.next() => printer.print(&report)?,
            () = &mut timeout => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        metrics.update(&tracing);
        tracing.take_gaps().iter().try_for_each(|gap| printer.print_gap(gap))?;
        for report in reports.drain(..) {
            metrics.count(&report);
            if is_enough(chosen) || !args.filter.matches(&report) {
                continue;
            }
            chosen += 1;
            flagged |= report.flagged;
            if let Some(report) = enricher.enrich(report) {
                printer.print(&report)?;
            }
        }
        printer.flush()?;
    }
    while enricher.is_waiting() {
        printer.print(&enricher.next().await)?;
    }
    printer.flush()?;
    tracing.finish()?;
    Ok(if flagged && args.fail_on == Some(FailOn::Flagged) {
        ExitCode::from(SEEN)
    } else {
        ExitCode::SUCCESS
    })
}
