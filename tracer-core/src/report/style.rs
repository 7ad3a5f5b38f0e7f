//! Colors of verdicts. A color never says what the text does not.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use crate::verdict::{Severity, Verdict};

/// Whether to use colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// For a terminal.
    On,
    /// For a file or a pipe.
    Off,
}

const FLAGGED: Style = AnsiColor::Red.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const FAINT: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

impl Colors {
    pub(super) fn of(self, verdict: Verdict) -> Style {
        self.style(match verdict.severity() {
            Severity::Good => GOOD,
            Severity::Doubtful => DOUBTFUL,
            Severity::Flagged => FLAGGED,
        })
    }

    pub(super) fn faint(self) -> Style {
        self.style(FAINT)
    }

    pub(super) fn bold(self) -> Style {
        self.style(BOLD)
    }

    pub(super) fn warning(self) -> Style {
        self.style(DOUBTFUL)
    }

    /// Appends a line in this style.
    pub fn push_line(self, text: &mut String, style: Style, line: &str) {
        let style = self.style(style);
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "{style}{line}{style:#}");
    }

    fn style(self, style: Style) -> Style {
        match self {
            Self::On => style,
            Self::Off => Style::new(),
        }
    }
}
