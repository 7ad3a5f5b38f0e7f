//! `egress-tracer replay`: the reports of a recording, or of JSON lines that `observe -o json` printed.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use jiff::Timestamp;

use super::{output, summary::Summary};
use crate::{live::Moment, recording, terminal};
use tracer_core::{
    filter::Filter,
    report::{Message, Report, Reports},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer replay session.jsonl
  egress-tracer replay session.jsonl.gz --flagged -n shop
  egress-tracer replay reports.jsonl -o table                what observe -o json printed
  egress-tracer replay session.jsonl -o json | jq -r .explanation
  kubectl exec POD -- egress-tracer record - --timeout 1m | egress-tracer replay -";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A file that `record`, `observe --record` or `observe -o json` wrote, plain or gzip; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// Reports on requests since then: a time of day (20:55), a time (2026-11-20T11:45:15Z), or how long ago (5m)
    #[arg(long, value_name = "TIME", help_heading = "Range")]
    since: Option<Moment>,
    /// Reports on requests up to then
    #[arg(long, value_name = "TIME", help_heading = "Range")]
    until: Option<Moment>,
    /// Stop after N reports
    #[arg(long, value_name = "N", help_heading = "Range")]
    first: Option<u64>,
    #[command(flatten)]
    output: output::Args,
}

/// How many reports are looked at to say what there is where a filter leaves nothing.
const LOOKED_AT: usize = 1_000;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let is_stdin = args.file == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { args.file.display().to_string() };
    let from: Box<dyn Read> = if is_stdin {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(&args.file).with_context(|| format!("cannot open {name}"))?)
    };
    let mut printer = args.output.printer()?;
    let mut seen = Summary::new(false);
    let mut left_out = Reports::new();
    let end = recording::read_messages(BufReader::new(from), |message| {
        if args.first.is_some_and(|first| seen.sessions() >= first) {
            return Ok(());
        }
        match message {
            Message::Report(report) if !args.is_wanted(&report) => {
                if seen.sessions() == 0 && left_out.len() < LOOKED_AT {
                    left_out.push(report);
                }
                Ok(())
            }
            message => {
                seen.count(&message);
                printer.print(&message)
            }
        }
    })
    .with_context(|| format!("cannot replay {name}"))?;
    printer.flush()?;
    eprintln!("{}", seen.text(terminal::takes_marks()));
    if seen.sessions() == 0
        && let Some(sentence) = args.filter.nothing_because(&left_out)
    {
        eprintln!("{sentence}");
    }
    Ok(match end {
        recording::End::Whole => ExitCode::SUCCESS,
        recording::End::CutShort { line } => {
            eprintln!("egress-tracer: {name} is cut short after line {line}: shown as far as it goes");
            ExitCode::FAILURE
        }
    })
}

impl Args {
    fn is_wanted(&self, report: &Report) -> bool {
        let time = || report.time.parse::<Timestamp>().ok();
        let is_since = self.since.is_none_or(|Moment(since)| time().is_some_and(|time| time >= since));
        let is_until = self.until.is_none_or(|Moment(until)| time().is_some_and(|time| time <= until));
        is_since && is_until && self.filter.matches(report)
    }
}
