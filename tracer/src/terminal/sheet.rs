//! A page of judgments and named rows, wrapped to the terminal.

use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSplitter, wrap};

use super::{Color, takes_marks, width};
use tracer_core::{
    escape::escape,
    report::{Colors, ascii_marks},
};

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgment {
    /// As it should be.
    Good,
    /// It may matter.
    Doubt,
    /// It is wrong.
    Bad,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Sheet {
    colors: Colors,
    width: usize,
    marks: bool,
    text: String,
}

/// The width of the names of rows, with the blanks behind them.
const NAMES: usize = 11;

impl Sheet {
    /// An empty page for standard output.
    pub fn new(color: Color, is_terminal: bool) -> Self {
        Self::with(color.colors(is_terminal), width(), takes_marks())
    }

    /// An empty page of so many columns.
    pub fn with(colors: Colors, width: usize, marks: bool) -> Self {
        Self { colors, width, marks, text: String::new() }
    }

    /// A sentence behind its mark. Text that is not our own is escaped.
    pub fn judge(&mut self, judgment: Judgment, sentence: &str) {
        let (mark, style) = match judgment {
            Judgment::Good => ('✓', AnsiColor::Green.on_default()),
            Judgment::Doubt => ('!', AnsiColor::Yellow.on_default()),
            Judgment::Bad => ('✗', AnsiColor::Red.on_default().bold()),
        };
        let mut mark = mark.to_string();
        if !self.marks {
            mark = ascii_marks(&mark);
        }
        let mark = self.styled(style, &mark);
        self.wrapped(&format!("{mark} "), 2, sentence);
    }

    /// A named row. An empty name goes on with the row before.
    pub fn row(&mut self, name: &str, content: &str) {
        let before = self.styled(Style::new().dimmed(), &format!("{name:0$}", NAMES - 2));
        self.wrapped(&format!("{before}  "), NAMES, content);
    }

    /// A line of its own, indented by so many columns.
    pub fn line(&mut self, indent: usize, content: &str) {
        self.wrapped(&" ".repeat(indent), indent, content);
    }

    /// An empty line, unless there is one already.
    pub fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// The page's text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// `content` behind `before`, which takes `indent` columns; further lines are indented by as many.
    fn wrapped(&mut self, before: &str, indent: usize, content: &str) {
        let content = escape(content);
        let content = if self.marks { content.into_owned() } else { ascii_marks(&content) };
        let options = Options::new(self.width.saturating_sub(indent).max(20))
            .break_words(false)
            .word_splitter(WordSplitter::NoHyphenation);
        for (nth, line) in wrap(&content, options).iter().enumerate() {
            let line = if nth == 0 { format!("{before}{line}") } else { format!("{:indent$}{line}", "") };
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        match self.colors {
            Colors::On => format!("{style}{text}{style:#}"),
            Colors::Off => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(width: usize, marks: bool) -> String {
        let mut sheet = Sheet::with(Colors::Off, width, marks);
        sheet.judge(
            Judgment::Good,
            "it works as it should, and this sentence is a little longer than the page",
        );
        sheet.judge(Judgment::Bad, "it does not work: \u{1b}[31m");
        sheet.blank();
        sheet.row("name", "a value that is wrapped below itself, not below its name");
        sheet.row("", "and more");
        sheet.into_text()
    }

    #[test]
    fn sentences_are_wrapped_behind_their_marks() {
        assert_eq!(
            page(44, true),
            "✓ it works as it should, and this sentence\n  is a little longer than the page\n✗ it does not work: \\u{1b}[31m\n\n\
             name       a value that is wrapped below\n           itself, not below its name\n           and more\n"
        );
        assert!(page(80, false).is_ascii());
    }
}
