//! Reports as one line each, as wide as the terminal: time, result, app, what it asked for, proxy, and more where there is
//! room. The text is printable ASCII, except for our own marks, arrows and ellipses.

use std::fmt::Write;

use super::{
    Gap, Report,
    grid::{Column, Grid},
    line_layout::{Causes, LineLayout},
    text::duration,
};

/// From so many columns on there is room for a pod in place of its workload, and for the verdict's name.
const NAMES: usize = 120;
/// From so many columns on there is room for the reason and the delay.
const DETAILS: usize = 160;
/// Below so many columns there is no room for the proxy.
const PROXY: usize = 60;

/// Writes compact lines.
pub struct Compact {
    layout: LineLayout,
    /// Made with the first report, whose time tells the zone.
    grid: Option<Grid>,
    causes: Causes,
}

impl Compact {
    /// Lines in this layout.
    pub fn new(layout: LineLayout) -> Self {
        Self { layout, grid: None, causes: Causes::default() }
    }

    /// One report, with line ends. The headings come before the first.
    pub fn show(&mut self, report: &Report) -> String {
        let explains = report.flagged && self.layout.explain;
        let count = if explains { self.causes.count(report) } else { 0 };
        let again = if count > 0 { format!(" +{count}") } else { String::new() };
        let cells = self.cells(report, &again);
        let layout = &self.layout;
        let is_first = self.grid.is_none();
        let grid = self.grid.get_or_insert_with(|| Grid::new(columns(layout, report), layout.width));
        grid.widen(&cells);
        let mut text = String::new();
        if is_first {
            let bold = layout.colors.bold();
            let _ = writeln!(text, "{bold}{}{bold:#}", grid.headings().concat());
        }
        let (faint, style) = (layout.colors.faint(), layout.colors.of(report.verdict));
        for (at, cell) in grid.row(&cells).iter().enumerate() {
            let _ = match at {
                0 => write!(text, "{faint}{cell}{faint:#}"),
                1 => write!(text, "{style}{cell}{style:#}"),
                _ => write!(text, "{cell}"),
            };
        }
        text.push('\n');
        if explains && count == 0 {
            text.push_str(&layout.detail(report, !layout.has_columns(NAMES)));
        }
        layout.finish(text)
    }

    fn cells(&self, report: &Report, again: &str) -> Vec<String> {
        let layout = &self.layout;
        let app = if layout.has_columns(NAMES) { report.source_name() } else { report.workload() };
        let mut cells = vec![layout.time(&report.time), format!("{}{again}", report.result())];
        cells.extend(layout.node.then(|| report.node_name()));
        cells.extend([app, report.asked_for()]);
        cells.extend(layout.has_columns(PROXY).then(|| report.proxy_address().to_string()));
        if layout.has_columns(DETAILS) {
            let late = if report.joined_late { "joined late" } else { "" };
            let after = report.reply.as_ref().map(|reply| duration(reply.after_us));
            cells.extend([report.verdict_text(), after.unwrap_or_default(), late.to_owned()]);
        } else if layout.has_columns(NAMES) {
            cells.push(report.verdict.name().to_owned());
        }
        cells
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

fn columns(layout: &LineLayout, report: &Report) -> Vec<Column> {
    // As wide as most results from the start, so that the columns behind it seldom move.
    let result =
        Column { width: "✗ closed by sidecar".chars().count(), ..Column::new("  RESULT", 10, 30).vital() };
    let mut columns = vec![Column::new(&layout.time_heading(&report.time), 8, 12), result];
    columns.extend(layout.node.then(|| Column::new("NODE", 4, 24)));
    columns.extend([Column::new("APP", 4, 48), Column::new("ASKED FOR", 4, 56)]);
    columns.extend(layout.has_columns(PROXY).then(|| Column::new("PROXY", 9, 47)));
    if layout.has_columns(DETAILS) {
        columns.extend([Column::new("VERDICT", 7, 44), Column::new("AFTER", 5, 10), Column::new("", 0, 11)]);
    } else if layout.has_columns(NAMES) {
        columns.push(Column::new("VERDICT", 7, 25));
    }
    columns
}
