//! How reports are printed: the arguments that say so, and the printer.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal, Stdout, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use crate::report::{Colors, Compact, Report};

/// How reports are printed.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Args {
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Colour in compact output
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// Explain flagged sessions: in a second line, also where the output is no terminal, and from the sidecar's own
    /// configuration, which is read from its admin port
    #[arg(long)]
    explain: bool,
    /// Also write each report as a line of JSON to this file
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
}

impl Args {
    /// Whether sidecars are to be asked for their configuration.
    pub(super) fn explains(&self) -> bool {
        self.explain
    }

    /// Opens what is to be written.
    pub(super) fn printer(&self) -> anyhow::Result<Printer> {
        Printer::new(self)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One line each, for people
    #[default]
    Compact,
    /// One line each, for programs
    Json,
    /// Indented
    Jsonpretty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Prints reports.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
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
            // https://no-color.org
            Color::Auto if terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) => {
                Colors::On
            }
            Color::Auto | Color::Never => Colors::Off,
        };
        let copy = args.report_file.as_ref().map(|file| {
            File::create(file).with_context(|| format!("cannot write the report file {}", file.display()))
        });
        Ok(Self {
            out: BufWriter::new(stdout),
            format: args.format,
            colors,
            explain: args.explain || terminal,
            zone: TimeZone::system(),
            copy: copy.transpose()?,
        })
    }

    pub(super) fn print(&mut self, report: &Report) -> anyhow::Result<()> {
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

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}
