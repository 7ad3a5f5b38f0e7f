//! A gap in a stream of reports: what was lost, where and why, so that nobody takes silence for peace.

use serde::{Deserialize, Serialize};

use super::{Report, json};

/// Something is missing here. Its JSON is a contract, as the report's is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Version of this format.
    pub v: u8,
    /// When it was noticed: RFC 3339, UTC, microseconds.
    pub time: String,
    /// What is missing.
    pub lost: Lost,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Where it was lost.
    pub source: Loser,
    /// Why, in the words of `egress_tracer_lost_events_total`.
    pub reason: String,
    /// How many: records of the kernel, or reports, of which some may not have passed the reader's filters.
    pub count: u64,
}

/// Where something was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loser {
    /// The kernel could not write a record.
    Kernel,
    /// A record could not be read.
    Userspace,
    /// Whoever reads the stream was too slow for it.
    Reader,
}

/// One line of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// Something is missing here.
    Gap(Gap),
    /// A session.
    Report(Box<Report>),
}

impl Gap {
    /// A gap that was noticed at `time`.
    pub fn new(time: String, source: Loser, reason: impl Into<String>, count: u64) -> Self {
        Self { v: 1, time, lost: Lost { source, reason: reason.into(), count } }
    }

    /// Writes one line of JSON behind what is there, with its line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        json::write(self, to).expect("a gap has nothing that a line has not");
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let Lost { source, reason, count } = &self.lost;
        let reason = super::text::plain(&super::text::shortened(reason));
        match source {
            Loser::Kernel => {
                format!(
                    "{count} records lost in the kernel ({reason}); sessions may be missing or less certain"
                )
            }
            Loser::Userspace => {
                format!("{count} records could not be read ({reason}); sessions may be missing")
            }
            Loser::Reader => format!("{count} reports lost; they came faster than they were read here"),
        }
    }
}

impl Message {
    /// Writes one line of JSON behind what is there, with its line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        match self {
            Self::Gap(gap) => gap.write_line(to),
            Self::Report(report) => report.write_line(to),
        }
    }
}
