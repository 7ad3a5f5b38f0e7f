//! Draws the table in any size from 80x24 down to a few columns, or the explanation of one row. Without color, words
//! and marks say the same.

use std::fmt::Write as _;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    state::{Key, Row as Counted, State},
    view_state::{Mode, ViewState},
};
use tracer_core::{
    report::{Colors, age, ellipsize},
    verdict::{Severity, Verdict},
};

/// Settings that do not change while `top` runs.
pub struct Theme {
    /// With color, or without.
    pub colors: Colors,
    /// Where sessions come from.
    pub source: String,
}

/// Draws a frame; `now` in seconds since the epoch. Returns how many rows fit on the screen.
pub fn draw(frame: &mut Frame<'_>, theme: &Theme, state: &State, view: &ViewState, now: i64) -> usize {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Line::from(title(theme, state, view)).style(theme.bold()), head);
    let row = view.selected.as_ref().and_then(|key| state.row(key));
    match (view.mode, row) {
        (Mode::Help, _) => frame.render_widget(Paragraph::new(HELP), body),
        (Mode::Detail(line), Some(row)) => explain(frame, theme, row, line, body),
        (Mode::Detail(_) | Mode::Table | Mode::Typing, _) => table(frame, theme, state, view, now, body),
    }
    frame.render_widget(Line::from(footer(view)).style(theme.faint()), foot);
    usize::from(body.height.saturating_sub(1))
}

const HELP: &str = "
  up, down, PgUp, PgDn, Home, End   select a row
  Enter                             explain it, with the fix; Esc goes back
  y                                 print the fix's manifest and quit
  s, r                              sort by the next column; the other way round
  /                                 only rows with this text; Esc shows all
  f                                 only flagged rows
  p                                 pause; nothing is lost meanwhile
  q                                 quit

  MIN counts sessions in the last minute, TOTAL since top was started, with
  those that the agent had kept.
  A row with a mark is flagged: a sidecar's configuration is at fault, and can
  be fixed.";

fn title(theme: &Theme, state: &State, view: &ViewState) -> String {
    let (sessions, flagged) = state.sessions;
    let mut title = format!("egress-tracer top  {}  {sessions} sessions, {flagged} flagged", theme.source);
    let (records, reports) = state.lost;
    if records > 0 {
        let _ = write!(title, ", {records} records lost");
    }
    if reports > 0 {
        let _ = write!(title, ", {reports} reports lost");
    }
    if view.paused {
        title += "  PAUSED";
    }
    title
}

fn footer(view: &ViewState) -> String {
    if let Some(note) = view.note {
        return note.to_owned();
    }
    if view.mode == Mode::Typing {
        return format!("/{}_   Enter keeps it, Esc shows all", view.text);
    }
    if matches!(view.mode, Mode::Detail(_)) {
        return "Esc back  up/down scroll  y print the manifest and quit  q quit".to_owned();
    }
    let mut shown = format!("s sort: {}{}", view.sort.name(), if view.reverse { ", reversed" } else { "" });
    if view.flagged {
        shown += "  only flagged";
    }
    if !view.text.is_empty() {
        let _ = write!(shown, "  only /{}", view.text);
    }
    format!("{shown}  Enter why  / filter  f flagged  p pause  ? help  q quit")
}

/// From this many columns on, the longest verdict and the total fit.
const WIDE: u16 = 110;

fn table(frame: &mut Frame<'_>, theme: &Theme, state: &State, view: &ViewState, now: i64, area: Rect) {
    let rows = state.rows(view.sort, view.reverse, &view.text, view.flagged, now);
    if rows.is_empty() {
        let text = if state.sessions.0 == 0 {
            "\n  No sessions yet."
        } else {
            "\n  Nothing passes the filter; Esc shows all."
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let is_wide = area.width >= WIDE;
    let proxy = rows.iter().map(|(key, _)| key.proxy.to_string().len()).max().unwrap_or_default().min(21);
    let mut widths = vec![
        Constraint::Fill(2),
        Constraint::Length(u16::try_from(proxy).unwrap_or(21)),
        Constraint::Fill(3),
        Constraint::Length(if is_wide { 25 } else { 18 }),
        Constraint::Length(5),
    ];
    let mut heads = vec!["WORKLOAD", "PROXY", "HOST", "  VERDICT", "  MIN"];
    if is_wide {
        widths.push(Constraint::Length(8));
        heads.push("   TOTAL");
    }
    widths.push(Constraint::Length(4));
    heads.push("LAST");
    // Long cells are cut with an ellipsis here, so the widths must be known.
    let columns = Layout::horizontal(widths.clone()).spacing(1).split(area);
    let cells = |key: &Key, row: &Counted| {
        let mark = if row.report.flagged { '✗' } else { ' ' };
        let mut cells = vec![
            key.workload.clone(),
            key.proxy.to_string(),
            key.host.clone(),
            format!("{mark} {}", key.verdict.name()),
            format!("{:5}", row.last_minute(now)),
        ];
        if is_wide {
            cells.push(format!("{:8}", row.total));
        }
        cells.push(format!("{:>4}", age(now - row.last)));
        let cut = cells
            .iter()
            .zip(columns.iter())
            .map(|(cell, area)| Cell::new(ellipsize(cell, usize::from(area.width)).into_owned()));
        Row::new(cut.collect::<Vec<_>>()).style(theme.of(key.verdict))
    };
    let selected =
        view.selected.as_ref().and_then(|selected| rows.iter().position(|(key, _)| *key == selected));
    let table = Table::new(rows.iter().map(|(key, row)| cells(key, row)), widths)
        .column_spacing(1)
        .header(Row::new(heads).style(theme.bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
}

fn explain(frame: &mut Frame<'_>, theme: &Theme, row: &Counted, from: u16, area: Rect) {
    let report = &row.report;
    let mut text = Text::from(vec![
        Line::from(vec![
            Span::raw(format!(
                "{}  {} via {}  ",
                report.source_name(),
                report.request_text(),
                report.proxy_address()
            )),
            Span::styled(report.verdict_text(), theme.of(report.verdict)),
        ]),
        Line::default(),
    ]);
    text.extend(report.detail(usize::MAX).into_iter().map(Line::from));
    text.push_line(Line::default());
    text.push_line(Line::styled("what this rests on:", theme.faint()));
    text.extend(report.evidence_lines().map(|evidence| Line::from(format!("  {evidence}"))));
    // Scrolling stops about where the text ends: wrapping may add a line or two.
    let height = text
        .lines
        .iter()
        .map(|line| line.width().div_ceil(usize::from(area.width).max(1)).max(1))
        .sum::<usize>();
    let last = u16::try_from(height).unwrap_or(u16::MAX).saturating_sub(area.height.saturating_sub(2));
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false });
    frame.render_widget(paragraph.scroll((from.min(last), 0)), area);
}

impl Theme {
    fn of(&self, verdict: Verdict) -> Style {
        self.colored(match verdict.severity() {
            Severity::Good => Style::new().fg(Color::Green),
            Severity::Doubtful => Style::new().fg(Color::Yellow),
            Severity::Flagged => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        })
    }

    fn bold(&self) -> Style {
        self.colored(Style::new().add_modifier(Modifier::BOLD))
    }

    fn faint(&self) -> Style {
        self.colored(Style::new().add_modifier(Modifier::DIM))
    }

    fn colored(&self, style: Style) -> Style {
        match self.colors {
            Colors::On => style,
            Colors::Off => Style::new(),
        }
    }
}
