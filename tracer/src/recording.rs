//! A recording: the engine's inputs as lines of JSON, with redacted heads. The first line has the version of the format and
//! the engine's settings. A replay prints the same reports, byte for byte. Users attach recordings to bug reports.

use std::io::{BufRead, Write};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::files::bounded_lines;
use tracer_core::{
    engine::{Engine, Input, Settings},
    report::Report,
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
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Feeds a recording to a new engine, and each of its reports to `sink`.
///
/// # Errors
/// A line is not what it should be, or `sink` failed.
pub fn replay(from: impl BufRead, mut sink: impl FnMut(Report) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut lines = bounded_lines(from);
    let header = lines.next().context("the recording is empty")?.context("cannot read the recording")?;
    let header: Header =
        serde_json::from_str(&header).context("line 1 is not the beginning of an egress-tracer recording")?;
    if header.egress_tracer_recording != VERSION {
        bail!(
            "this is a recording of version {}, and this egress-tracer reads version {VERSION}; \
             replay it with the version that made it",
            header.egress_tracer_recording
        );
    }
    let mut engine = Engine::new(header.settings);
    let mut reports = Vec::new();
    for (number, line) in (2..).zip(lines) {
        let line = line.context("cannot read the recording")?;
        let input: Input = serde_json::from_str(&line)
            .with_context(|| format!("line {number} is not an input of the engine"))?;
        engine.feed(input, &mut reports);
        reports.drain(..).try_for_each(|report| sink(*report))?;
    }
    engine.finish(&mut reports);
    reports.drain(..).try_for_each(|report| sink(*report))
}
