//! `egress-tracer record` and `replay`: what was seen, for later and for others.

use std::{
    fs::File,
    io::{BufReader, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{output, scope};
use crate::{files::OutputFile, recording};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer record session.jsonl --timeout 1m
  egress-tracer record session.jsonl --cgroup /sys/fs/cgroup/kubepods.slice/kubepods-pod1234.slice";

pub(super) const REPLAY_EXAMPLES: &str = "\
Examples:
  egress-tracer replay session.jsonl
  egress-tracer replay session.jsonl -o json | jq -r .explanation";

/// `record`
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where to: JSON lines, secrets masked
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    scope: scope::Args,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    timeout: Option<Duration>,
}

/// `replay`
#[derive(clap::Args, Debug)]
pub(super) struct ReplayArgs {
    /// A file that `record` or `observe --record` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: output::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let to = OutputFile { path: args.file.clone(), force: args.force };
    let mut pipeline = args.scope.attach(Some(&to))?;
    args.scope.write_ready_file()?;
    if std::io::stderr().is_terminal() {
        eprintln!("recording to {}; Ctrl-C ends it", args.file.display());
    }
    let timeout = tokio::time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let (mut reports, mut flagged, mut all) = (Vec::new(), 0u64, 0u64);
    loop {
        tokio::select! {
            waited = pipeline.wait() => waited?,
            () = &mut timeout => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        while pipeline.read(&mut reports)? {
            for report in reports.drain(..) {
                all += 1;
                flagged += u64::from(report.flagged);
            }
        }
        for gap in pipeline.take_gaps() {
            eprintln!("lost {} records ({}): the recording is not whole", gap.lost.count, gap.lost.reason);
        }
        drop(pipeline.take_gone()); // this command keeps no state by pod
    }
    pipeline.finish()?;
    eprintln!("{all} sessions, {flagged} of them flagged, are in {}", args.file.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let file = &args.file;
    let from = File::open(file).with_context(|| format!("cannot open the recording {}", file.display()))?;
    let mut printer = args.output.printer()?;
    recording::replay(BufReader::new(from), |report| printer.print_report(&report))
        .with_context(|| format!("cannot replay {}", file.display()))?;
    printer.flush()?;
    Ok(ExitCode::SUCCESS)
}
