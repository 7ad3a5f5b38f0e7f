//! Draws the table in any size from 200 columns down to a few, or the explanation of one row. Without color, words and marks say
//! the same.

use std::borrow::Cow;

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
    report::{Colors, age, ascii_marks, ellipsize},
    verdict::{Severity, Verdict},
};

/// Settings that do not change while `top` runs.
pub struct Theme {
    /// With color, or without.
    pub colors: Colors,
    /// Marks beyond ASCII can be shown.
    pub marks: bool,
    /// Where sessions come from: `node-1, through the agent`.
    pub source: String,
    /// The filter of the command line, as flags; empty: none.
    pub filter: String,
}

/// Draws a frame; `now` in seconds since the epoch. Returns how many rows fit on the screen.
pub fn draw(frame: &mut Frame<'_>, theme: &Theme, state: &State, view: &ViewState, now: i64) -> usize {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    let columns = usize::from(head.width);
    frame.render_widget(Line::from(title(theme, state, view, columns)).style(theme.bold()), head);
    let row = view.selected.as_ref().and_then(|key| state.row(key));
    match (view.mode, row) {
        (Mode::Help, _) => frame.render_widget(Paragraph::new(HELP), body),
        (Mode::Detail(line), Some(row)) => explain(frame, theme, row, line, body),
        (Mode::Detail(_) | Mode::Table | Mode::Typing, _) => table(frame, theme, state, view, now, body),
    }
    frame.render_widget(Line::from(footer(theme, view, columns)).style(theme.faint()), foot);
    usize::from(body.height.saturating_sub(1))
}

const HELP: &str = "
  j, k, arrows, PgUp, PgDn, g, G    select a row
  Enter                             explain it, with the fix; Esc goes back
  w                                 write the fix to a file
  y                                 print the fix and quit
  s, S, r                           sort by the next, previous column; reverse
  /                                 only rows with this text; Esc shows all
  f                                 only flagged rows
  p                                 pause; nothing is lost meanwhile
  q                                 quit

  A row counts the sessions that had the same result for the same cause,
  whatever host they asked for. MIN: in the last minute. TOTAL: since top was
  started, with those that the agent had kept.
  A row with a cross is flagged: a sidecar's configuration is at fault.";

/// Parts of a line that fit, joined by two blanks. Each has a rank; the parts of the highest ranks are left out first, and those
/// of rank 0 never.
fn fitted(parts: &[(u8, String)], columns: usize) -> String {
    let mut rank = parts.iter().map(|(rank, _)| *rank).max().unwrap_or_default();
    loop {
        let shown: Vec<&str> = parts
            .iter()
            .filter(|(at, text)| *at <= rank && !text.is_empty())
            .map(|(_, text)| text.as_str())
            .collect();
        let line = shown.join("  ");
        if line.chars().count() <= columns || rank == 0 {
            return line;
        }
        rank -= 1;
    }
}

fn title(theme: &Theme, state: &State, view: &ViewState, columns: usize) -> String {
    let (sessions, flagged) = state.sessions;
    let counted =
        |count: u64, what: &str| if count > 0 { format!(", {count} {what}") } else { String::new() };
    let waiting = state.waiting.and_then(|waiting| u64::try_from(waiting).ok()).unwrap_or_default();
    let (records, reports) = state.lost;
    let line = fitted(
        &[
            (4, "egress-tracer top".to_owned()),
            (3, theme.source.clone()),
            (0, format!("{sessions} sessions, {flagged} flagged{}", counted(waiting, "waiting"))),
            (1, counted(records, "records lost").trim_start_matches(", ").to_owned()),
            (1, counted(reports, "reports lost").trim_start_matches(", ").to_owned()),
            (2, theme.filter.clone()),
            (1, if view.paused { "PAUSED".to_owned() } else { String::new() }),
        ],
        columns,
    );
    theme.plain(&ellipsize(&line, columns)).into_owned()
}

/// The keys, of which `q` is never left out.
fn footer(theme: &Theme, view: &ViewState, columns: usize) -> String {
    let own = |text: &str| text.to_owned();
    let quit = || (0, own("q quit"));
    let line = match (&view.note, view.mode) {
        (Some(note), _) => {
            let room = columns.saturating_sub("  q quit".len());
            fitted(&[(1, ellipsize(note, room).into_owned()), quit()], columns)
        }
        (None, Mode::Typing) => format!("/{}_  Enter keeps it, Esc shows all", view.text),
        (None, Mode::Detail(_)) => fitted(
            &[
                (2, own("Esc back")),
                (4, own("j/k scroll")),
                (1, own("w write the fix")),
                (3, own("y print it and quit")),
                quit(),
            ],
            columns,
        ),
        (None, Mode::Table | Mode::Help) => {
            let reversed = if view.reverse { ", reversed" } else { "" };
            let text = if view.text.is_empty() { String::new() } else { format!("only /{}", view.text) };
            fitted(
                &[
                    (2, format!("s sort: {}{reversed}", view.sort.name())),
                    (1, if view.flagged { own("only flagged") } else { String::new() }),
                    (1, text),
                    (3, own("Enter why")),
                    (4, own("w write the fix")),
                    (5, own("/ filter")),
                    (6, own("f flagged")),
                    (7, own("p pause")),
                    (2, own("? help")),
                    quit(),
                ],
                columns,
            )
        }
    };
    theme.plain(&line).into_owned()
}

/// From this many columns on there is room for the total.
const WIDE: u16 = 110;
/// From this many columns on there is room for the cause.
const CAUSE: u16 = 96;

fn table(frame: &mut Frame<'_>, theme: &Theme, state: &State, view: &ViewState, now: i64, area: Rect) {
    let rows = state.rows(view.sort, view.reverse, &view.text, view.flagged, now);
    if rows.is_empty() {
        let text = match (state.sessions.0, theme.filter.as_str()) {
            (0, "") => "\n  No sessions yet.".to_owned(),
            (0, filter) => format!("\n  No sessions yet that pass {filter}."),
            (1.., _) => "\n  Nothing passes the filter; Esc shows all.".to_owned(),
        };
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), area);
        return;
    }
    let longest = |content: &dyn Fn(&Key, &Counted) -> usize, most: usize| {
        let found = rows.iter().map(|(key, row)| content(key, row)).max().unwrap_or_default();
        Constraint::Length(u16::try_from(found.min(most)).unwrap_or(u16::MAX))
    };
    let mut widths = vec![
        Constraint::Fill(3),
        longest(&|key, _| key.proxy.to_string().len(), 21),
        longest(&|_, row| row.report.result().chars().count(), 24),
        Constraint::Fill(3),
    ];
    let mut heads = vec!["APP", "PROXY", "  RESULT", "ASKED FOR"];
    let (has_cause, has_total) = (area.width >= CAUSE, area.width >= WIDE);
    if has_cause {
        widths.push(Constraint::Fill(4));
        heads.push("CAUSE");
    }
    widths.push(Constraint::Length(5));
    heads.push("  MIN");
    if has_total {
        widths.push(Constraint::Length(8));
        heads.push("   TOTAL");
    }
    widths.push(Constraint::Length(4));
    heads.push("LAST");
    // Long cells are cut with an ellipsis here, so the widths must be known.
    let columns = Layout::horizontal(widths.clone()).spacing(1).split(area);
    let cells = |key: &Key, row: &Counted| {
        let mut cells = vec![key.workload.clone(), key.proxy.to_string(), row.report.result(), row.hosts()];
        if has_cause {
            cells.push(key.cause.clone());
        }
        cells.push(format!("{:5}", row.last_minute(now)));
        if has_total {
            cells.push(format!("{:8}", row.total));
        }
        cells.push(format!("{:>4}", age(now - row.last)));
        let cut = cells.iter().zip(columns.iter()).map(|(cell, area)| {
            Cell::new(theme.plain(&ellipsize(cell, usize::from(area.width))).into_owned())
        });
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
            Span::styled(theme.plain(&report.result()).into_owned(), theme.of(report.verdict)),
            Span::raw(format!(
                "  {}  {} via {}  {}",
                report.source_name(),
                report.request_text(),
                report.proxy_address(),
                report.verdict_text()
            )),
        ]),
        Line::default(),
    ]);
    text.extend(
        report.detail(usize::MAX).into_iter().map(|line| Line::from(theme.plain(&line).into_owned())),
    );
    text.push_line(Line::default());
    text.push_line(Line::styled("what this rests on:", theme.faint()));
    text.extend(
        report
            .evidence_lines()
            .map(|evidence| Line::from(theme.plain(&format!("  {evidence}")).into_owned())),
    );
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

    /// The text as this terminal can show it.
    fn plain<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.marks { Cow::Borrowed(text) } else { Cow::Owned(ascii_marks(text)) }
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
