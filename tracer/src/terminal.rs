//! What the output is written to: whether it takes colors and marks, and how wide it is.

mod sheet;

use std::io::IsTerminal as _;

use tracer_core::report::Colors;

pub use sheet::{Judgment, Sheet};

/// Width of text that is written to a file or a pipe, in columns.
const PIPE_WIDTH: usize = 100;

/// Least width that text is wrapped to: below it, lines of single words are harder to read than broken ones.
const MIN_WIDTH: usize = 40;

/// When to use color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Resolves the choice for an output that is a terminal or not.
    pub fn colors(self, terminal: bool) -> Colors {
        match self {
            Self::Always => Colors::On,
            // https://no-color.org
            Self::Auto if terminal && is_unset("NO_COLOR") && !is_dumb() => Colors::On,
            Self::Auto | Self::Never => Colors::Off,
        }
    }
}

/// The columns of standard output: `COLUMNS`, else the terminal's own, else `PIPE_WIDTH`.
pub fn width() -> usize {
    own_width().unwrap_or(PIPE_WIDTH).max(MIN_WIDTH)
}

/// The columns that a line of standard output may have: `COLUMNS`, else the terminal's own. `None`: it goes to a file or a
/// pipe, whose reader wants whole values.
pub fn line_width() -> Option<usize> {
    own_width().map(|columns| columns.max(MIN_WIDTH))
}

fn own_width() -> Option<usize> {
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    given.or_else(|| {
        let is_terminal = std::io::stdout().is_terminal();
        let size = is_terminal.then(crossterm::terminal::size).and_then(Result::ok);
        size.map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
    })
}

/// Whether marks beyond ASCII can be shown.
pub fn takes_marks() -> bool {
    // The order of setlocale(3).
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| {
        let value = std::env::var(name).ok();
        value.filter(|value| !value.is_empty())
    });
    let is_utf8 = locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.ends_with("utf-8") || locale.ends_with("utf8") || locale.contains("utf-8@")
    });
    is_utf8 && !is_dumb()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn is_unset(name: &str) -> bool {
    std::env::var_os(name).is_none_or(|value| value.is_empty())
}
