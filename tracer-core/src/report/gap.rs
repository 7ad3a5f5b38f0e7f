//! A gap in a stream of reports: what was lost, where and why.

use serde::{Deserialize, Serialize};

use super::{Report, append_line, text::shortened};
use crate::escape::escape_to_ascii;

/// A gap. Its JSON is a contract (`"v":1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gap {
    /// Version of this format.
    pub v: u8,
    /// When it was noticed: RFC 3339, UTC, microseconds.
    pub time: String,
    /// What was lost.
    pub lost: Lost,
}

/// What was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lost {
    /// Where it was lost.
    pub source: LossSource,
    /// The `reason` label of `egress_tracer_lost_events_total`.
    pub reason: String,
    /// How many: records of the kernel, or reports before the reader's filters.
    pub count: u64,
}

/// Where a record or report was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LossSource {
    /// The kernel could not write a record.
    Kernel,
    /// A record could not be decoded.
    Userspace,
    /// The reader of the stream was too slow.
    Reader,
}

/// One line of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Message {
    /// Something was lost here.
    Gap(Gap),
    /// A session.
    Report(Box<Report>),
}

impl Gap {
    /// A gap that was noticed at `time`.
    pub fn new(time: String, source: LossSource, reason: impl Into<String>, count: u64) -> Self {
        Self { v: 1, time, lost: Lost { source, reason: reason.into(), count } }
    }

    /// Appends one line of JSON, with the line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        append_line(self, to);
    }

    /// The gap as a sentence, safe for a terminal.
    pub fn sentence(&self) -> String {
        let Lost { source, reason, count } = &self.lost;
        let reason = escape_to_ascii(&shortened(reason)).into_owned();
        match source {
            LossSource::Kernel => {
                format!(
                    "{count} records lost in the kernel ({reason}); sessions may be missing or less certain"
                )
            }
            LossSource::Userspace => {
                format!("{count} records could not be read ({reason}); sessions may be missing")
            }
            LossSource::Reader => format!("{count} reports lost; they came faster than they were read here"),
        }
    }
}

impl Message {
    /// Appends one line of JSON, with the line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        match self {
            Self::Gap(gap) => gap.write_line(to),
            Self::Report(report) => report.write_line(to),
        }
    }
}
