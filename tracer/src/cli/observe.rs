//! `egress-tracer observe`: sessions as they happen, one a line.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;
use tokio::signal::unix::{SignalKind, signal};

use super::scope;
use crate::{
    metrics::{self, Metrics},
    report::{Colors, Compact, Report},
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
    /// Only flagged sessions
    #[arg(long)]
    flagged: bool,
    /// Exit with 3 if such a session was seen
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Colour in compact output
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// Explain flagged sessions in a second line, also where the output is no terminal
    #[arg(long)]
    explain: bool,
    /// Also write each report as a line of JSON to this file
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Flagged,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Compact,
    Json,
    Jsonpretty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// `--fail-on` saw what it was told to look for.
const SEEN: u8 = 3;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before anything is attached: a signal from here on ends the run in good order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut printer = Printer::new(&args)?;
    let server = match args.scope.metrics_address {
        Some(address) => Some(metrics::Server::bind(address).await?),
        None => None,
    };
    let mut tracing = args.scope.attach()?;
    let metrics = Metrics::new(tracing.probes())?;
    if let Some(server) = server {
        server.spawn(metrics.clone());
    }
    args.scope.say_ready()?;
    metrics.set_ready();
    if std::io::stderr().is_terminal() {
        eprintln!("watching with {} probes; Ctrl-C ends it", tracing.probes().family());
    }

    let timeout = tokio::time::sleep(args.timeout.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let mut reports = Vec::new();
    let (mut shown, mut flagged) = (0, false);
    'tracing: loop {
        tokio::select! {
            next = tracing.next(&mut reports) => next?,
            () = &mut timeout => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        metrics.update(&tracing);
        for report in reports.drain(..) {
            metrics.count(&report);
            if args.flagged && !report.flagged {
                continue;
            }
            flagged |= report.flagged;
            printer.print(&report)?;
            shown += 1;
            if args.first.is_some_and(|first| shown >= first) {
                break 'tracing;
            }
        }
        printer.flush()?;
    }
    printer.flush()?;
    Ok(if flagged && args.fail_on == Some(FailOn::Flagged) {
        ExitCode::from(SEEN)
    } else {
        ExitCode::SUCCESS
    })
}

struct Printer {
    out: std::io::BufWriter<std::io::Stdout>,
    format: Format,
    colors: Colors,
    explain: bool,
    zone: TimeZone,
    copy: Option<File>,
}

impl Printer {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let colors = match args.color {
            Color::Always => Colors::On,
            Color::Never => Colors::Off,
            // https://no-color.org
            Color::Auto if terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) => {
                Colors::On
            }
            Color::Auto => Colors::Off,
        };
        let copy = args.report_file.as_ref().map(|file| {
            File::create(file).with_context(|| format!("cannot write the report file {}", file.display()))
        });
        Ok(Self {
            out: std::io::BufWriter::new(stdout),
            format: args.output,
            colors,
            explain: args.explain || terminal,
            zone: TimeZone::system(),
            copy: copy.transpose()?,
        })
    }

    fn print(&mut self, report: &Report) -> anyhow::Result<()> {
        match self.format {
            Format::Compact => {
                writeln!(self.out, "{}", Compact::new(report, self.colors, &self.zone, self.explain))?;
            }
            Format::Json => writeln!(self.out, "{}", report.to_json())?,
            Format::Jsonpretty => writeln!(self.out, "{}", serde_json::to_string_pretty(report)?)?,
        }
        if let Some(copy) = &mut self.copy {
            writeln!(copy, "{}", report.to_json()).context("cannot write the report file")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}
