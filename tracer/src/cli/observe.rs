//! `egress-tracer observe`: sessions as they happen, one to a line.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    output,
    source::{self, Source},
};
use crate::{
    live::{Moment, Query},
    terminal,
};
use tracer_core::{
    filter::Filter,
    report::{LossSource, Message, ascii_marks},
    verdict::Verdict,
};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Flagged,
}

/// How long the agent may take to say why there is nothing: the command is to end at once.
const AFTERTHOUGHT: Duration = Duration::from_millis(500);

/// Exit code where `--fail-on` saw what it looks for.
const SEEN: u8 = 3;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before any probe is attached: from here on a signal ends the run in good order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
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
        ExitCode::from(SEEN)
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

/// Counts of what was printed.
struct Summary {
    /// When it was begun to wait for sessions; `None`: only past ones are printed.
    begun: Option<Instant>,
    verdicts: BTreeMap<Verdict, u64>,
    flagged: u64,
    lost: [u64; 2],
}

impl Summary {
    fn new(follows: bool) -> Self {
        Self { begun: follows.then(Instant::now), verdicts: BTreeMap::new(), flagged: 0, lost: [0; 2] }
    }

    fn sessions(&self) -> u64 {
        self.verdicts.values().sum()
    }

    fn count(&mut self, message: &Message) {
        match message {
            Message::Report(report) => {
                *self.verdicts.entry(report.verdict).or_default() += 1;
                self.flagged += u64::from(report.flagged);
            }
            Message::Gap(gap) => {
                let [records, reports] = &mut self.lost;
                match gap.lost.source {
                    LossSource::Kernel | LossSource::Userspace => *records += gap.lost.count,
                    LossSource::Reader => *reports += gap.lost.count,
                }
            }
        }
    }

    /// `3 sessions in 10 s, 1 flagged: 1 ✗ handled_as_http, 2 tunneled; 12 records lost`
    fn text(&self, marks: bool) -> String {
        use std::fmt::Write as _;
        let all = self.sessions();
        let mut text = format!("{all} {}", if all == 1 { "session" } else { "sessions" });
        if let Some(begun) = self.begun {
            let _ = write!(text, " in {} s", begun.elapsed().as_secs());
        }
        let _ = write!(text, ", {} flagged", self.flagged);
        for (nth, (verdict, count)) in self.verdicts.iter().enumerate() {
            let (before, mark) = (if nth == 0 { ": " } else { ", " }, verdict.severity().mark());
            let mark = if mark == ' ' { String::new() } else { format!("{mark} ") };
            let _ = write!(text, "{before}{count} {mark}{}", verdict.name());
        }
        for (lost, what) in self.lost.into_iter().zip(["records lost", "reports lost, as they were not read in time"]) {
            if lost > 0 {
                let _ = write!(text, "; {lost} {what}");
            }
        }
        if marks { text } else { ascii_marks(&text) }
    }
}
