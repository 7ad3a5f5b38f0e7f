//! Reports as rows of a table under one line of headings. A value that is too long for its column is cut in the middle,
//! except in the last column.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::{
    Colors, Gap, MANIFEST_LINES, Replier, Report,
    text::{duration, ellipsize, gap_line},
};
use crate::verdict::Reason;

/// Headings and widths. `absolute_form_rewritten` and `closed_without_reply` are the longest verdict and reason.
const COLUMNS: [(&str, usize); 9] = [
    ("TIME", 12),
    ("SOURCE", 32),
    ("PROXY", 21),
    ("HOST", 32),
    ("VERDICT", 25),
    ("REASON", 20),
    ("STATUS", 7),
    ("FROM", 7),
    ("AFTER", 0),
];

/// Writes rows.
pub struct Table {
    colors: Colors,
    zone: TimeZone,
    explain: bool,
    has_headings: bool,
}

impl Table {
    /// Shows times in `zone`. With `explain`, flagged reports get lines that explain them.
    pub fn new(colors: Colors, zone: TimeZone, explain: bool) -> Self {
        Self { colors, zone, explain, has_headings: false }
    }

    /// One report, with line ends. The headings come before the first.
    pub fn show(&mut self, report: &Report) -> String {
        let mut text = String::new();
        if !self.has_headings {
            self.has_headings = true;
            let bold = self.colors.bold();
            let _ = writeln!(text, "{bold}{}{bold:#}", row(&COLUMNS.map(|(heading, _)| heading.to_owned())));
        }
        let reply = report.reply.as_ref();
        let from = reply.map_or("", |reply| match reply.from {
            Replier::Sidecar => "sidecar",
            Replier::Proxy => "proxy",
            Replier::Unknown => "unknown",
        });
        let verdict = format!("{} {}", if report.flagged { "✗" } else { " " }, report.verdict.name());
        let cells = [
            report.time_of_day(&self.zone),
            report.source_name(),
            report.proxy_address().to_string(),
            report.target(),
            verdict,
            report.reason.map_or("", Reason::name).to_owned(),
            reply.map_or_else(String::new, |_| report.status()),
            from.to_owned(),
            reply.map_or_else(String::new, |reply| duration(reply.after_us)),
        ];
        let style = self.colors.of(report.verdict);
        let _ = writeln!(text, "{style}{}{style:#}", row(&cells));
        if report.flagged && self.explain {
            let faint = self.colors.faint();
            for line in report.detail(MANIFEST_LINES) {
                let _ = writeln!(text, "{:14}{faint}{line}{faint:#}", "");
            }
        }
        text
    }

    /// A gap, with its line end.
    pub fn show_gap(&self, gap: &Gap) -> String {
        gap_line(gap, self.colors, &self.zone)
    }
}

fn row(cells: &[String; 9]) -> String {
    let mut row = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = if width == 0 {
            write!(row, "{cell}")
        } else {
            write!(row, "{:width$}  ", ellipsize(cell, width))
        };
    }
    row.truncate(row.trim_end().len());
    row
}
