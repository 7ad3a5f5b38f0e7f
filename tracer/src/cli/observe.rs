//! `egress-tracer observe`: sessions as they happen, one to a line.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{output, source};
use crate::live::{Query, Since};
use tracer_core::{
    filter::Filter,
    report::{LossSource, Message},
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
    /// Reports on requests since then: how long ago, or a time (5m, 2026-11-20T11:45:15Z)
    #[arg(long, value_name = "TIME", conflicts_with = "standalone", help_heading = "Range")]
    since: Option<Since>,
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
        since: args.since.map(|Since(since)| since),
        filter: args.filter,
    };
    let record = args.record.as_deref().map(|file| args.output.output_file(file));
    let mut source = args.source.open(&query, args.output.explains(), record.as_ref()).await?;
    let timeout = tokio::time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let mut seen = Summary::new();
    let is_enough = |seen: &Summary| args.first.is_some_and(|first| seen.sessions() >= first);
    let mut interrupted = false;
    while !is_enough(&seen) {
        let message = tokio::select! {
            message = source.next() => message?,
            () = &mut timeout => break,
            _ = interrupt.recv() => {
                interrupted = true;
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
    for message in source.finish().await? {
        if !is_enough(&seen) {
            seen.count(&message);
            printer.print(&message)?;
        }
    }
    printer.flush()?;
    if interrupted && args.output.is_for_people() {
        eprint!("{}", seen.text());
    }
    Ok(if seen.flagged > 0 && args.fail_on == Some(FailOn::Flagged) {
        ExitCode::from(SEEN)
    } else {
        ExitCode::SUCCESS
    })
}

/// Counts of what was printed.
struct Summary {
    begun: Instant,
    verdicts: BTreeMap<Verdict, u64>,
    flagged: u64,
    lost: [u64; 2],
}

impl Summary {
    fn new() -> Self {
        Self { begun: Instant::now(), verdicts: BTreeMap::new(), flagged: 0, lost: [0; 2] }
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

    fn text(&self) -> String {
        use std::fmt::Write as _;
        let (all, seconds) = (self.sessions(), self.begun.elapsed().as_secs());
        let sessions = if all == 1 { "session" } else { "sessions" };
        let mut text = format!("\n{all} {sessions} in {seconds} s, {} of them flagged\n", self.flagged);
        for (verdict, count) in &self.verdicts {
            let mark = if verdict.is_flagged() { "✗" } else { " " };
            let _ = writeln!(text, "{count:8} {mark} {}", verdict.name());
        }
        for (lost, what) in self.lost.into_iter().zip(["records lost", "reports lost; not read in time"]) {
            if lost > 0 {
                let _ = writeln!(text, "{lost:8} ! {what}");
            }
        }
        text
    }
}
