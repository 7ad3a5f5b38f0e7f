//! What the screen shows, and how keys change it: order, filter, pause, the selected row and its explanation.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{Key, Sort, State};

/// What the screen shows.
#[derive(Clone, Debug, Default)]
pub struct ViewState {
    /// The order of rows.
    pub sort: Sort,
    /// Reverse the order.
    pub reverse: bool,
    /// Only rows with this text.
    pub text: String,
    /// Only flagged rows.
    pub flagged: bool,
    /// The screen does not change.
    pub paused: bool,
    /// The selected row; it stays selected when other rows move before it.
    pub selected: Option<Key>,
    /// What fills the screen.
    pub mode: Mode,
    /// A note about the last key, shown until the next key.
    pub note: Option<String>,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The table.
    #[default]
    Table,
    /// The table, while the filter's text is typed.
    Typing,
    /// The explanation of the selected row, from this line on.
    Detail(u16),
    /// The list of keys.
    Help,
}

/// What follows from a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on.
    Go,
    /// Quit.
    Quit,
    /// Quit, and print this manifest.
    Print(String),
    /// Write this manifest to a file, and go on.
    Write(String),
}

impl ViewState {
    /// Handles a key; `page` is how many rows are on the screen, `now` in seconds since the epoch.
    pub fn press(&mut self, key: KeyEvent, state: &State, page: usize, now: i64) -> Outcome {
        self.note = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Outcome::Quit } else { Outcome::Go };
        }
        match (self.mode, key.code) {
            (Mode::Typing, code) => self.type_in(code),
            (Mode::Help, _) => self.mode = Mode::Table,
            (_, KeyCode::Char('q')) => return Outcome::Quit,
            (_, KeyCode::Char('y')) => return self.manifest(state).map_or(Outcome::Go, Outcome::Print),
            (_, KeyCode::Char('w')) => return self.manifest(state).map_or(Outcome::Go, Outcome::Write),
            (_, KeyCode::Char('p' | ' ')) => self.paused = !self.paused,
            (_, KeyCode::Char('?' | 'h')) => self.mode = Mode::Help,
            (Mode::Detail(line), code) => self.mode = press_in_detail(line, code, page),
            (Mode::Table, code) => self.press_in_table(code, state, page, now),
        }
        Outcome::Go
    }

    fn press_in_table(&mut self, key: KeyCode, state: &State, page: usize, now: i64) {
        let page = isize::try_from(page).unwrap_or(isize::MAX);
        match key {
            KeyCode::Char('s') => self.sort = self.sort.next(1),
            KeyCode::Char('S') => self.sort = self.sort.previous(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('f') => self.flagged = !self.flagged,
            KeyCode::Char('/') => self.mode = Mode::Typing,
            KeyCode::Esc => {
                self.text.clear();
                self.flagged = false;
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(-1, state, now),
            KeyCode::Down | KeyCode::Char('j') => self.select(1, state, now),
            KeyCode::PageUp => self.select(-page, state, now),
            KeyCode::PageDown => self.select(page, state, now),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN, state, now),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX, state, now),
            KeyCode::Enter => {
                if self.selected.is_none() {
                    self.select(0, state, now);
                }
                self.mode = if self.selected.is_some() { Mode::Detail(0) } else { Mode::Table };
            }
            _ => {}
        }
    }

    fn type_in(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(letter) if self.text.len() < 64 && !letter.is_control() => self.text.push(letter),
            KeyCode::Backspace => {
                self.text.pop();
            }
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.mode = Mode::Table;
                self.text.clear();
            }
            _ => {}
        }
    }

    /// Moves the selection by `by` rows.
    fn select(&mut self, by: isize, state: &State, now: i64) {
        let rows = state.rows(self.sort, self.reverse, &self.text, self.flagged, now);
        let here =
            self.selected.as_ref().and_then(|selected| rows.iter().position(|(key, _)| *key == selected));
        let to = match here {
            Some(here) => here.saturating_add_signed(by),
            None if by == isize::MAX => usize::MAX,
            None => 0,
        };
        self.selected = rows.get(to.min(rows.len().saturating_sub(1))).map(|(key, _)| (*key).clone());
    }

    /// The manifest of the selected row's fix, or a note on why there is none.
    fn manifest(&mut self, state: &State) -> Option<String> {
        let Some(row) = self.selected.as_ref().and_then(|key| state.row(key)) else {
            self.note = Some("select a row first (j, k)".to_owned());
            return None;
        };
        if row.report.manifest.is_none() {
            self.note = Some("no fix is known for this row".to_owned());
        }
        row.report.manifest.clone()
    }
}

/// Which part of the explanation is shown after this key, or that the table is.
fn press_in_detail(line: u16, key: KeyCode, page: usize) -> Mode {
    let page = u16::try_from(page).unwrap_or(u16::MAX);
    Mode::Detail(match key {
        KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => line.saturating_add(1),
        KeyCode::PageUp => line.saturating_sub(page),
        KeyCode::PageDown => line.saturating_add(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => u16::MAX,
        KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Left => return Mode::Table,
        _ => line,
    })
}
