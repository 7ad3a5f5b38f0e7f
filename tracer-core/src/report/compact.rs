//! Reports as one line each for people: time, who, what was asked of which proxy, what became of it, who answered after
//! how long. Columns line up with those of the lines before. Everything in it is printable ASCII, or a mark or an arrow
//! of ours, or the ellipsis in the middle of a name that is too long.

use std::fmt::Write;

use jiff::tz::TimeZone;

use super::{BEGINNING, Colors, Gap, Report, text::gap_line};

/// Writes compact lines.
pub struct Compact {
    colors: Colors,
    zone: TimeZone,
    explain: bool,
    who: Column,
    asked: Column,
    proxy: Column,
    judged: Column,
}

impl Compact {
    /// Times are shown in `zone`; with `explain`, flagged reports get further lines that do.
    pub fn new(colors: Colors, zone: TimeZone, explain: bool) -> Self {
        let column = |most| Column { most, width: 0 };
        Self {
            colors,
            zone,
            explain,
            who: column(48),
            asked: column(56),
            proxy: column(28),
            judged: column(40),
        }
    }

    /// One report, with line ends.
    pub fn show(&mut self, report: &Report) -> String {
        let (style, faint) = (self.colors.of(report.verdict), self.colors.faint());
        let mut text = format!("{faint}{}{faint:#}  ", report.time_of_day(&self.zone));
        let mark = if report.flagged { "✗" } else { " " };
        let who = self.who.pad(&report.who());
        let asked = self.asked.pad(&report.asked());
        let proxy = self.proxy.pad(&report.proxy_address().to_string());
        let answered = report.answered();
        let late =
            if report.joined_late { format!("  {faint}(joined late){faint:#}") } else { String::new() };
        let judged = report.judged();
        let is_last = answered.is_none() && late.is_empty();
        let padding =
            if is_last { 0 } else { self.judged.pad(&judged).chars().count() - judged.chars().count() };
        let _ = write!(text, "{style}{mark}{style:#} {who}  {asked} via {proxy}  {style}{judged}{style:#}");
        let _ = write!(text, "{:padding$}", "");
        if let Some(answered) = answered {
            let _ = write!(text, "  {answered}");
        }
        text.push_str(&late);
        text.push('\n');
        if report.flagged && self.explain {
            for line in report.detail(BEGINNING) {
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

/// A column that grows with what is in it, up to a bound: one long name does not push all others aside for good.
struct Column {
    most: usize,
    width: usize,
}

impl Column {
    fn pad(&mut self, text: &str) -> String {
        let length = text.chars().count();
        if length <= self.most {
            self.width = self.width.max(length);
        }
        format!("{text:0$}", self.width)
    }
}
