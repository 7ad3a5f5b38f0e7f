//! Reports as rows of a table, under one line of headings: for those who look down a column. What is too long for its
//! column is cut in the middle, but for the last one.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::{
    BEGINNING, Colors, Gap, Replier, Report,
    text::{cut, duration, gap_line},
};
use crate::verdict::Reason;

/// Headings and widths; `absolute_form_rewritten` and `closed_without_reply` are the longest of their kind.
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
    begun: bool,
}

impl Table {
    /// Times are shown in `zone`; with `explain`, flagged reports get further lines that do.
    pub fn new(colors: Colors, zone: TimeZone, explain: bool) -> Self {
        Self { colors, zone, explain, begun: false }
    }

    /// One report, with line ends; the headings come before the first.
    pub fn show(&mut self, report: &Report) -> String {
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            let bold = self.colors.bold();
            let _ = writeln!(text, "{bold}{}{bold:#}", line(&COLUMNS.map(|(heading, _)| heading.to_owned())));
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
            report.who(),
            report.proxy_address().to_string(),
            report.asked_for(),
            verdict,
            report.reason.map_or("", Reason::name).to_owned(),
            reply.map_or_else(String::new, |_| report.status()),
            from.to_owned(),
            reply.map_or_else(String::new, |reply| duration(reply.after_us)),
        ];
        let style = self.colors.of(report.verdict);
        let _ = writeln!(text, "{style}{}{style:#}", line(&cells));
        if report.flagged && self.explain {
            let faint = self.colors.faint();
            for row in report.detail(BEGINNING) {
                let _ = writeln!(text, "{:14}{faint}{row}{faint:#}", "");
            }
        }
        text
    }

    /// A gap, with its line end.
    pub fn show_gap(&self, gap: &Gap) -> String {
        gap_line(gap, self.colors, &self.zone)
    }
}

fn line(cells: &[String; 9]) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ =
            if width == 0 { write!(line, "{cell}") } else { write!(line, "{:width$}  ", cut(cell, width)) };
    }
    line.truncate(line.trim_end().len());
    line
}
