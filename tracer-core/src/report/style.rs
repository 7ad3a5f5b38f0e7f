//! The colours of a verdict, and whether there are any. Whatever a colour says is also said in words.

use anstyle::{AnsiColor, Style};

use crate::verdict::Verdict;

/// Whether to use colour.
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
        self.paint(match verdict {
            Verdict::Tunneled | Verdict::Direct => GOOD,
            Verdict::RefusedByProxy | Verdict::Unreachable | Verdict::Unanswered => DOUBTFUL,
            Verdict::HandledAsHttp
            | Verdict::Blackholed
            | Verdict::WrappedInTls
            | Verdict::AbsoluteFormRewritten => FLAGGED,
        })
    }

    pub(super) fn faint(self) -> Style {
        self.paint(FAINT)
    }

    pub(super) fn bold(self) -> Style {
        self.paint(BOLD)
    }

    pub(super) fn warning(self) -> Style {
        self.paint(DOUBTFUL)
    }

    fn paint(self, style: Style) -> Style {
        match self {
            Self::On => style,
            Self::Off => Style::new(),
        }
    }
}
