//! `egress-tracer record`: what was seen, for later and for others.

use std::{
    io::{IsTerminal as _, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use super::scope;
use crate::files::{OutputFile, is_stdout};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer record session.jsonl --timeout 1m
  egress-tracer record - | gzip > session.jsonl.gz
  kubectl exec POD -- egress-tracer record - --timeout 1m | egress-tracer replay -
  egress-tracer record session.jsonl --cgroup /sys/fs/cgroup/kubepods.slice/kubepods-pod1234.slice";

/// `record`
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where to: JSON lines, secrets masked; `-` is standard output
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

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let to = OutputFile { path: args.file.clone(), force: args.force };
    let is_piped = is_stdout(&args.file);
    if is_piped && stdout().is_terminal() {
        bail!("`record -` writes the recording to standard output; send it to a file or a pipe");
    }
    let name = if is_piped { "standard output".to_owned() } else { args.file.display().to_string() };
    let mut pipeline = args.scope.attach(Some(&to))?;
    args.scope.write_ready_file()?;
    if stderr().is_terminal() {
        eprintln!("recording to {name}; Ctrl-C ends it");
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
        if is_piped {
            pipeline.flush_recording()?; // its reader may wait for it
        }
    }
    pipeline.finish()?;
    eprintln!("{all} sessions, {flagged} flagged, were recorded to {name}");
    Ok(ExitCode::SUCCESS)
}
