//! How lines for people are laid out, and what is printed below a line.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::{Timestamp, tz::TimeZone};
use textwrap::{Options, WordSplitter, wrap};

use super::{
    Colors, Gap, MANIFEST_LINES, Report,
    detail::{ASK, WHOLE},
    text::{ellipsize, time_of_day},
};

/// How lines for people are laid out.
#[derive(Clone, Debug)]
pub struct LineLayout {
    /// With color, or without.
    pub colors: Colors,
    /// The columns of the terminal; `None`: there is none, and no line is cut.
    pub width: Option<usize>,
    /// Marks and arrows beyond ASCII can be shown.
    pub marks: bool,
    /// Explain flagged reports below their line.
    pub explain: bool,
    /// Name the node in each line.
    pub node: bool,
    /// The zone of times.
    pub zone: TimeZone,
}

/// Before the lines below a line.
const INDENT: &str = "    ";

impl LineLayout {
    /// Whether the terminal has so many columns.
    pub(super) fn has_columns(&self, columns: usize) -> bool {
        self.width.is_none_or(|width| width >= columns)
    }

    /// The heading of times: the zone at that time, `TIME UTC`.
    pub(super) fn time_heading(&self, time: &str) -> String {
        let time = time.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let zone = time.to_zoned(self.zone.clone()).strftime("%Z").to_string();
        format!("TIME {}", zone.chars().filter(char::is_ascii_graphic).take(8).collect::<String>())
    }

    /// The time of day, to the millisecond where there is room.
    pub(super) fn time(&self, time: &str) -> String {
        let text = time_of_day(time, &self.zone);
        // A time that cannot be read is shown as it is.
        match text.split_once('.') {
            Some((seconds, _)) if !self.has_columns(100) => ellipsize(seconds, "00:00:00".len()).into_owned(),
            _ => ellipsize(&text, "00:00:00.000".len()).into_owned(),
        }
    }

    /// A gap, with its line end.
    pub(super) fn gap(&self, gap: &Gap) -> String {
        let (faint, style) = (self.colors.faint(), self.colors.warning());
        let time = self.time(&gap.time);
        let sentence = format!("! {}", gap.sentence());
        let mut text = format!("{faint}{time}{faint:#}  ");
        let before = time.chars().count() + 2;
        let room = self.width.map(|width| width.saturating_sub(before));
        for (nth, line) in wrapped(&sentence, room, "  ").iter().enumerate() {
            if nth > 0 {
                let _ = write!(text, "{:before$}", "");
            }
            let _ = writeln!(text, "{style}{line}{style:#}");
        }
        self.finish(text)
    }

    /// The lines below a flagged report.
    pub(super) fn detail(&self, report: &Report, names_verdict: bool) -> String {
        let faint = self.colors.faint();
        let room = self.width.map(|width| width.saturating_sub(INDENT.len()));
        let mut text = String::new();
        let mut lines = report.detail(MANIFEST_LINES);
        if let Some(first) = lines.first_mut().filter(|_| names_verdict) {
            *first = format!("{}: {first}", report.verdict_text());
        }
        for line in lines {
            let is_command = [WHOLE, ASK].iter().any(|name| line.starts_with(name));
            let pieces = if is_command { continued(&line, room) } else { wrapped(&line, room, "  ") };
            for piece in pieces {
                let _ = writeln!(text, "{INDENT}{faint}{piece}{faint:#}");
            }
        }
        text
    }

    /// The text as this terminal can show it.
    pub(super) fn finish(&self, text: String) -> String {
        if self.marks { text } else { ascii_marks(&text) }
    }
}

/// Our own marks, arrows and ellipses in ASCII, each as wide as before. Other text is escaped to ASCII already.
pub fn ascii_marks(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '✗' => 'x',
            '✓' => '+',
            '…' => '~',
            '─' => '-',
            '═' => '=',
            '▶' => '>',
            other => other,
        })
        .collect()
}

/// A line in pieces of `room` columns, the later ones indented. A word is never broken: it may be a name to copy.
fn wrapped(line: &str, room: Option<usize>, indent: &str) -> Vec<String> {
    match room {
        Some(room) if line.chars().count() > room => {
            let options = Options::new(room)
                .break_words(false)
                .word_splitter(WordSplitter::NoHyphenation)
                .subsequent_indent(indent);
            wrap(line, options).into_iter().map(std::borrow::Cow::into_owned).collect()
        }
        Some(_) | None => vec![line.to_owned()],
    }
}

/// A command in pieces that a shell reads as one.
fn continued(line: &str, room: Option<usize>) -> Vec<String> {
    let mut pieces = wrapped(line, room, "  ");
    if pieces.len() > 1 {
        pieces = wrapped(line, room.map(|room| room.saturating_sub(2)), "  ");
        let last = pieces.len() - 1;
        pieces.iter_mut().take(last).for_each(|piece| piece.push_str(" \\"));
    }
    pieces
}

/// Which causes were explained already, and how often each has occurred since.
#[derive(Default)]
pub(super) struct Causes(BTreeMap<String, u64>);

/// The most causes that are remembered; with a further one, all are explained anew.
const MAX_CAUSES: usize = 1_024;

impl Causes {
    /// Counts a flagged report. `0`: its cause was not explained yet.
    pub(super) fn count(&mut self, report: &Report) -> u64 {
        let listener = report.listener.as_ref().map_or("", |listener| listener.name.as_str());
        let cause = format!(
            "{} {} {} {} {listener}",
            report.workload(),
            report.proxy_address(),
            report.verdict_text(),
            report.status(),
        );
        if self.0.len() >= MAX_CAUSES && !self.0.contains_key(&cause) {
            self.0.clear();
        }
        let count = self.0.entry(cause).and_modify(|count| *count += 1).or_insert(0);
        *count
    }
}
