//! How reports are printed: the arguments that say so, and the printer.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal, Stdout, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use crate::{
    files::OutputFile,
    terminal::{self, Color},
};
use tracer_core::report::{Compact, Gap, LineLayout, Message, Report, Table};

/// How reports are printed.
#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(next_help_heading = "Output")]
pub(super) struct Args {
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Color in compact output and tables
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// Explain flagged sessions below their line, from the sidecar's own configuration, which is read from its admin
    /// port; on a terminal the explanation is shown anyway
    #[arg(long)]
    explain: bool,
    /// Name the node in each line
    #[arg(long)]
    print_node_name: bool,
    /// Also write each report as a line of JSON to this file
    #[arg(long, value_name = "FILE")]
    report_file: Option<PathBuf>,
    /// Replace the files of --report-file and --record if they exist
    #[arg(long)]
    force: bool,
}

impl Args {
    /// Whether to ask sidecars for their configuration.
    pub(super) fn explains(&self) -> bool {
        self.explain
    }

    /// A file that the command was asked to write.
    pub(super) fn output_file(&self, path: &Path) -> OutputFile {
        OutputFile { path: path.to_owned(), force: self.force }
    }

    /// Opens the output and the report file.
    pub(super) fn printer(&self) -> anyhow::Result<Printer> {
        Printer::new(self)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A line each, result first, as wide as the terminal
    #[default]
    Compact,
    /// Columns that keep their width, with the verdict and its reason where there is room
    Table,
    /// One line each, for programs
    Json,
    /// Indented
    Jsonpretty,
}

/// What `--fail-on` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum FailOn {
    Flagged,
}

impl FailOn {
    /// The exit code where it was found.
    pub(super) const FOUND: u8 = 3;
}

/// Bytes written at once, at most: a pipe holds as many.
/// <https://man7.org/linux/man-pages/man7/pipe.7.html>
const AT_ONCE: usize = 64 << 10;

/// Prints reports.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    form: Formatter,
    /// The current message as a line of JSON; its allocation is reused.
    line: Vec<u8>,
    copy: Option<File>,
    /// The output is a terminal, whose width may change.
    is_terminal: bool,
}

/// The chosen format, with its state from line to line.
enum Formatter {
    Compact(Compact),
    Table(Table),
    Json,
    Jsonpretty,
}

impl Printer {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let layout = LineLayout {
            colors: args.color.colors(is_terminal),
            width: terminal::line_width(),
            marks: terminal::takes_marks(),
            explain: args.explain || is_terminal,
            node: args.print_node_name,
            zone: TimeZone::system(),
        };
        let copy = args.report_file.as_ref().map(|file| args.output_file(file).create("report file"));
        Ok(Self {
            out: BufWriter::with_capacity(AT_ONCE, stdout),
            form: match args.format {
                Format::Compact => Formatter::Compact(Compact::new(layout)),
                Format::Table => Formatter::Table(Table::new(layout)),
                Format::Json => Formatter::Json,
                Format::Jsonpretty => Formatter::Jsonpretty,
            },
            line: Vec::new(),
            copy: copy.transpose()?,
            is_terminal,
        })
    }

    /// Prints one message of a stream.
    pub(super) fn print(&mut self, message: &Message) -> anyhow::Result<()> {
        match message {
            Message::Gap(gap) => self.print_gap(gap),
            Message::Report(report) => self.print_report(report),
        }
    }

    fn print_gap(&mut self, gap: &Gap) -> anyhow::Result<()> {
        match &self.form {
            Formatter::Compact(compact) => self.out.write_all(compact.show_gap(gap).as_bytes())?,
            Formatter::Table(table) => self.out.write_all(table.show_gap(gap).as_bytes())?,
            Formatter::Json => {
                self.line.clear();
                gap.write_line(&mut self.line);
                self.out.write_all(&self.line)?;
            }
            Formatter::Jsonpretty => writeln!(self.out, "{}", serde_json::to_string_pretty(gap)?)?,
        }
        Ok(())
    }

    pub(super) fn print_report(&mut self, report: &Report) -> anyhow::Result<()> {
        if self.copy.is_some() || matches!(self.form, Formatter::Json) {
            self.line.clear();
            report.write_line(&mut self.line);
        }
        if self.is_terminal {
            match &mut self.form {
                Formatter::Compact(compact) => compact.resize(terminal::line_width()),
                Formatter::Table(table) => table.resize(terminal::line_width()),
                Formatter::Json | Formatter::Jsonpretty => {}
            }
        }
        match &mut self.form {
            Formatter::Compact(compact) => self.out.write_all(compact.show(report).as_bytes())?,
            Formatter::Table(table) => self.out.write_all(table.show(report).as_bytes())?,
            Formatter::Json => self.out.write_all(&self.line)?,
            Formatter::Jsonpretty => writeln!(self.out, "{}", serde_json::to_string_pretty(report)?)?,
        }
        if let Some(copy) = &mut self.copy {
            copy.write_all(&self.line).context("cannot write the report file")?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.out.flush()?)
    }
}
