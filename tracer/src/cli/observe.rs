//! `egress-tracer observe`: sessions as they happen, one to a line.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    output::{self, FailOn},
    source::{self, Source},
    summary::Summary,
};
use crate::{
    files,
    live::{Moment, Query},
    terminal,
};
use tracer_core::filter::Filter;

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer observe --flagged                            what can be fixed, with the fix
  egress-tracer observe -n shop -p cart --verdict '!tunneled'
  egress-tracer observe --to 10.0.0.1:3128 --http-status 4+
  egress-tracer observe --last 20 -o table                   what the agent has kept
  egress-tracer observe --since 5m -f -o json | jq .explanation
  egress-tracer observe --standalone --first 1 --timeout 30s --fail-on flagged";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: output::Args,
    /// After --last and --since, go on with new sessions; the default without them
    #[arg(short, long, help_heading = "Range")]
    follow: bool,
    /// Stop after N reports
    #[arg(long, value_name = "N", help_heading = "Range")]
    first: Option<u64>,
    /// The last N reports that the agent has kept
    #[arg(long, value_name = "N", conflicts_with = "standalone", help_heading = "Range")]
    last: Option<u64>,
    /// Reports on requests since then: how long ago (5m), a time of day (20:55), or a time (2026-11-20T11:45:15Z)
    #[arg(long, value_name = "TIME", conflicts_with = "standalone", help_heading = "Range")]
    since: Option<Moment>,
    /// Reports on requests up to then, in the forms of --since
    #[arg(long, value_name = "TIME", conflicts_with_all = ["standalone", "follow"], help_heading = "Range")]
    until: Option<Moment>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = super::duration, help_heading = "Range")]
    timeout: Option<Duration>,
    /// Exit with 3 if such a session was seen
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Output")]
    fail_on: Option<FailOn>,
    /// Also record what the probes see to this file, secrets masked, for `egress-tracer replay`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    record: Option<PathBuf>,
    #[command(flatten)]
    source: source::Args,
}

/// How long the agent may take to say why there is nothing: the command is to end at once.
const AFTERTHOUGHT: Duration = Duration::from_millis(500);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before any probe is attached: from here on a signal ends the run in good order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    if args.record.as_deref().is_some_and(files::is_stdout) {
        bail!("--record - would mix the recording with the reports; use: egress-tracer record -");
    }
    let mut printer = args.output.printer()?;
    let query = Query {
        follow: args.follow,
        last: args.last,
        since: args.since.map(|Moment(since)| since),
        until: args.until.map(|Moment(until)| until),
        filter: args.filter,
    };
    let record = args.record.as_deref().map(|file| args.output.output_file(file));
    let mut source = tokio::select! {
        source = args.source.open(&query, args.output.explains(), record.as_ref()) => source?,
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    let is_narrow = query.filter != Filter::default() && query.follows() && query.last.is_none();
    if is_narrow && matches!(source, Source::Agent(_)) && std::io::stderr().is_terminal() {
        note_mismatch(&args.source, &query).await;
    }
    let timeout = tokio::time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let mut seen = Summary::new(query.follows());
    let is_enough = |seen: &Summary| args.first.is_some_and(|first| seen.sessions() >= first);
    while !is_enough(&seen) {
        let message = tokio::select! {
            message = source.next() => message?,
            () = &mut timeout => break,
            _ = interrupt.recv() => {
                if std::io::stderr().is_terminal() {
                    eprintln!(); // behind the ^C that the terminal shows
                }
                break;
            }
            _ = terminate.recv() => break,
        };
        let Some(mut message) = message else { break };
        loop {
            seen.count(&message);
            printer.print(&message)?;
            if is_enough(&seen) {
                break;
            }
            let Some(next) = source.next_ready()? else { break };
            message = next;
        }
        printer.flush()?;
    }
    let left_out = source.take_left_out();
    for message in source.finish().await? {
        if !is_enough(&seen) {
            seen.count(&message);
            printer.print(&message)?;
        }
    }
    printer.flush()?;
    eprintln!("{}", seen.text(terminal::takes_marks()));
    if seen.sessions() == 0 {
        match tokio::time::timeout(AFTERTHOUGHT, args.source.nothing_because(&query, left_out)).await {
            Ok(Ok(sentence)) => eprintln!("{sentence}"),
            Ok(Err(error)) => log::debug!("{error:#}"), // the agent ended meanwhile
            Err(_) => log::debug!("the agent does not say why there is nothing"),
        }
    }
    Ok(if seen.flagged > 0 && args.fail_on == Some(FailOn::Flagged) {
        ExitCode::from(FailOn::FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

/// Says at the start that none of the sessions so far passes the filter: a mistyped name would wait for ever.
async fn note_mismatch(source: &source::Args, query: &Query) {
    if let Some(sentence) = source.mismatch_so_far(query).await {
        eprintln!("so far {sentence}");
    }
}
