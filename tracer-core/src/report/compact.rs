//! Reports as one line each: time, app, request, proxy, verdict, answer. Columns line up with those of earlier lines. The
//! text is printable ASCII, except for our own marks, arrows and ellipses.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::{Colors, Gap, MANIFEST_LINES, Report, text::gap_line};

/// Writes compact lines.
pub struct Compact {
    colors: Colors,
    zone: TimeZone,
    explain: bool,
    source: Column,
    request: Column,
    proxy: Column,
    verdict: Column,
}

impl Compact {
    /// Shows times in `zone`. With `explain`, flagged reports get lines that explain them.
    pub fn new(colors: Colors, zone: TimeZone, explain: bool) -> Self {
        let column = |max_width| Column { max_width, width: 0 };
        Self {
            colors,
            zone,
            explain,
            source: column(48),
            request: column(56),
            proxy: column(28),
            verdict: column(40),
        }
    }

    /// One report, with line ends.
    pub fn show(&mut self, report: &Report) -> String {
        let (style, faint) = (self.colors.of(report.verdict), self.colors.faint());
        let mut text = format!("{faint}{}{faint:#}  ", report.time_of_day(&self.zone));
        let mark = if report.flagged { "✗" } else { " " };
        let source = self.source.pad(&report.source_name());
        let request = self.request.pad(&report.request_text());
        let proxy = self.proxy.pad(&report.proxy_address().to_string());
        let reply = report.reply_text();
        let late =
            if report.joined_late { format!("  {faint}(joined late){faint:#}") } else { String::new() };
        let verdict = report.verdict_text();
        let is_last = reply.is_none() && late.is_empty();
        let padding =
            if is_last { 0 } else { self.verdict.pad(&verdict).chars().count() - verdict.chars().count() };
        let _ =
            write!(text, "{style}{mark}{style:#} {source}  {request} via {proxy}  {style}{verdict}{style:#}");
        let _ = write!(text, "{:padding$}", "");
        if let Some(reply) = reply {
            let _ = write!(text, "  {reply}");
        }
        text.push_str(&late);
        text.push('\n');
        if report.flagged && self.explain {
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

/// A column that grows with its values up to a bound, so that one long name does not widen it for good.
struct Column {
    max_width: usize,
    width: usize,
}

impl Column {
    fn pad(&mut self, text: &str) -> String {
        let length = text.chars().count();
        if length <= self.max_width {
            self.width = self.width.max(length);
        }
        format!("{text:0$}", self.width)
    }
}
