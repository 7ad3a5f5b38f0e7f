//! A recording: the engine's inputs as lines of JSON, with redacted heads. The first line has the version of the format and
//! the engine's settings. A replay prints the same reports, byte for byte. Users attach recordings to bug reports.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};

use anyhow::{Context as _, anyhow, bail};
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::files::bounded_lines;
use tracer_core::{
    engine::{Engine, Input, Settings},
    escape::escape,
    report::{Message, Report, Reports},
};

/// The version of the format. Replays refuse other versions.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    egress_tracer_recording: u32,
    settings: Settings,
}

/// Writes a recording.
pub struct Recorder<W: Write> {
    to: W,
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    pub fn new(mut to: W, settings: &Settings) -> anyhow::Result<Self> {
        let header = Header { egress_tracer_recording: VERSION, settings: settings.clone() };
        serde_json::to_writer(&mut to, &header)?;
        to.write_all(b"\n")?;
        Ok(Self { to })
    }

    /// Adds a redacted input.
    pub fn record(&mut self, input: &Input) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.to, input)?;
        Ok(self.to.write_all(b"\n")?)
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// How the input of a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its last line.
    Whole,
    /// In the middle of the line after this one, as where the writer was killed or a copy broke off.
    CutShort {
        /// The last whole line, counted from 1.
        line: u64,
    },
}

/// Feeds a whole recording to a new engine, and each of its reports to `sink`.
///
/// # Errors
/// A line is not what it should be, the recording is cut short, or `sink` failed.
pub fn replay(from: impl BufRead, mut sink: impl FnMut(Report) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = read_messages(from, |message| match message {
        Message::Report(report) => sink(*report),
        Message::Gap(_) => Ok(()),
    })?;
    match end {
        End::Whole => Ok(()),
        End::CutShort { line } => bail!("it is cut short after line {line}"),
    }
}

/// Feeds a recording to a new engine, and each of its reports to `sink`; or passes on the lines of reports that were printed as
/// JSON. Gzip is unpacked.
///
/// # Errors
/// A line is not what it should be, or `sink` failed.
pub fn read_messages(
    mut from: impl BufRead,
    sink: impl FnMut(Message) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    if from.fill_buf().context("cannot read it")?.starts_with(&GZIP) {
        return replay_lines(BufReader::new(MultiGzDecoder::new(from)), sink);
    }
    replay_lines(from, sink)
}

/// The first bytes of gzip data (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

fn replay_lines(
    from: impl BufRead,
    mut sink: impl FnMut(Message) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    let mut lines = Lines { from: bounded_lines(from).peekable(), number: 0 };
    let first = match lines.next()? {
        Line::Text(first) => first,
        Line::Cut | Line::End => bail!("it is empty"),
    };
    let Ok(header) = serde_json::from_str::<Header>(&first) else {
        return replay_reports(&first, lines, sink);
    };
    if header.egress_tracer_recording != VERSION {
        bail!(
            "this is a recording of version {}, and this egress-tracer reads version {VERSION}; \
             replay it with the version that made it",
            header.egress_tracer_recording
        );
    }
    let mut engine = Engine::new(header.settings);
    let mut reports = Vec::new();
    let mut pass_on =
        |reports: &mut Reports| reports.drain(..).try_for_each(|report| sink(Message::Report(report)));
    let end = loop {
        match lines.read::<Input>("an input of the engine")? {
            Read::Value(input) => engine.feed(input, &mut reports),
            Read::End(end) => break end,
        }
        pass_on(&mut reports)?;
    };
    engine.finish(&mut reports);
    pass_on(&mut reports)?;
    Ok(end)
}

/// Passes on reports that were printed as lines of JSON.
fn replay_reports<I: Iterator<Item = anyhow::Result<String>>>(
    first: &str,
    mut lines: Lines<I>,
    mut sink: impl FnMut(Message) -> anyhow::Result<()>,
) -> anyhow::Result<End> {
    let message: Message = serde_json::from_str(first).map_err(|_| anyhow!("{}", foreign(first)))?;
    sink(message)?;
    loop {
        match lines.read("a report")? {
            Read::Value(message) => sink(message)?,
            Read::End(end) => return Ok(end),
        }
    }
}

/// What a file is that is neither a recording nor reports, by its first line.
fn foreign(first: &str) -> String {
    let begins: String = first.trim().chars().take(60).collect();
    let begins = escape(&begins);
    let hint = if first.contains("\"configs\"") || first.trim() == "{" {
        "; a sidecar's configuration is read by `egress-tracer explain --config-dump FILE`"
    } else {
        ""
    };
    format!(
        "it is no recording of egress-tracer and no report of `observe -o json`; it begins with `{begins}`{hint}"
    )
}

/// The lines of an input, with their number.
struct Lines<I: Iterator> {
    from: std::iter::Peekable<I>,
    /// The line that was read last, counted from 1.
    number: u64,
}

enum Line {
    Text(String),
    /// The input breaks off here.
    Cut,
    End,
}

enum Read<T> {
    Value(T),
    End(End),
}

impl<I: Iterator<Item = anyhow::Result<String>>> Lines<I> {
    fn next(&mut self) -> anyhow::Result<Line> {
        match self.from.next() {
            None => Ok(Line::End),
            Some(Ok(line)) => {
                self.number += 1;
                Ok(Line::Text(line))
            }
            Some(Err(error)) if is_early_end(&error) => Ok(Line::Cut),
            Some(Err(error)) => Err(error),
        }
    }

    /// The next line as a value. The last line is cut short where its JSON has no end.
    fn read<T: DeserializeOwned>(&mut self, what: &str) -> anyhow::Result<Read<T>> {
        let whole = self.number;
        let line = match self.next()? {
            Line::Text(line) => line,
            Line::Cut => return Ok(Read::End(End::CutShort { line: whole })),
            Line::End => return Ok(Read::End(End::Whole)),
        };
        match serde_json::from_str(&line) {
            Ok(value) => Ok(Read::Value(value)),
            Err(error) if error.is_eof() && self.is_at_end() => Ok(Read::End(End::CutShort { line: whole })),
            Err(error) => Err(error).with_context(|| format!("line {} is not {what}", self.number)),
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.from.peek().is_none_or(|next| next.as_ref().is_err_and(is_early_end))
    }
}

/// Whether gzip data ends in the middle, or the text within a character.
fn is_early_end(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let broke_off =
            cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof);
        let in_character = cause
            .downcast_ref::<std::string::FromUtf8Error>()
            .is_some_and(|error| error.utf8_error().error_len().is_none());
        broke_off || in_character
    })
}

#[cfg(test)]
mod tests;
