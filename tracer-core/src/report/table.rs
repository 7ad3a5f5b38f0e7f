//! Reports as a table that follows the terminal: one line of headings, and columns whose width does not change. A value that
//! is too long for its column is cut in the middle.

use std::fmt::Write;

use super::{
    Gap, Report,
    grid::{Column, Grid},
    line_layout::{Causes, LineLayout},
    text::duration,
};
use crate::verdict::Reason;

/// A column: its heading, its width where there is room, its least width, the least width of a terminal that has it, and its
/// content.
type Spec = (&'static str, usize, usize, usize, fn(&Report) -> String);

/// `absolute_form_rewritten` and `closed_without_reply` are the longest verdict and reason.
const COLUMNS: [Spec; 7] = [
    ("  RESULT", 24, 10, 0, Report::result),
    ("SOURCE", 32, 4, 0, Report::source_name),
    ("PROXY", 21, 9, 60, |report| report.proxy_address().to_string()),
    ("HOST", 32, 4, 0, Report::asked_for),
    ("VERDICT", 23, 7, 110, |report| report.verdict.name().to_owned()),
    ("REASON", 20, 6, 140, |report| report.reason.map_or("", Reason::name).to_owned()),
    ("AFTER", 9, 5, 160, |report| {
        report.reply.as_ref().map_or_else(String::new, |reply| duration(reply.after_us))
    }),
];

/// Writes rows.
pub struct Table {
    layout: LineLayout,
    /// Made with the first report, whose time tells the zone.
    grid: Option<Grid>,
    causes: Causes,
}

impl Table {
    /// Rows in this layout.
    pub fn new(layout: LineLayout) -> Self {
        Self { layout, grid: None, causes: Causes::default() }
    }

    /// One report, with line ends. The headings come before the first.
    pub fn show(&mut self, report: &Report) -> String {
        let layout = &self.layout;
        let mut text = String::new();
        let is_first = self.grid.is_none();
        let grid = self.grid.get_or_insert_with(|| grid(layout, report));
        if is_first {
            let bold = layout.colors.bold();
            let _ = writeln!(text, "{bold}{}{bold:#}", grid.headings().concat());
        }
        let mut cells = vec![layout.time(&report.time)];
        cells.extend(layout.node.then(|| report.node_name()));
        cells.extend(shown(layout).map(|(.., content)| content(report)));
        let style = layout.colors.of(report.verdict);
        let _ = writeln!(text, "{style}{}{style:#}", grid.row(&cells).concat());
        if report.flagged && layout.explain && self.causes.count(report) == 0 {
            text.push_str(&layout.detail(report, !layout.has_columns(110)));
        }
        layout.finish(text)
    }

    /// Follows a terminal that has another width now. The headings come again, where the new columns begin.
    pub fn resize(&mut self, width: Option<usize>) {
        if self.layout.width != width {
            self.layout.width = width;
            self.grid = None;
        }
    }

    /// A gap, with its line end.
    pub fn show_gap(&self, gap: &Gap) -> String {
        self.layout.gap(gap)
    }
}

fn shown(layout: &LineLayout) -> impl Iterator<Item = Spec> {
    COLUMNS.into_iter().filter(|(_, _, _, least, _)| layout.has_columns(*least))
}

fn grid(layout: &LineLayout, report: &Report) -> Grid {
    let fixed = |heading: &str, width: usize, min: usize| Column {
        heading: heading.to_owned(),
        min,
        max: width,
        width,
        is_vital: heading.contains("RESULT"),
    };
    let time = layout.time_heading(&report.time);
    let mut columns = vec![fixed(&time, layout.time(&report.time).len().max(time.len()), 8)];
    columns.extend(layout.node.then(|| fixed("NODE", 16, 4)));
    // On a narrow terminal the longest results are cut, for the sake of hosts.
    let result = if layout.has_columns(110) { 24 } else { 19 };
    columns.extend(shown(layout).map(|(heading, width, min, ..)| {
        fixed(heading, if heading.contains("RESULT") { result } else { width }, min)
    }));
    Grid::new(columns, layout.width)
}
