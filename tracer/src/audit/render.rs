//! The answers of an audit as a table, and as JSON lines.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use tracer_core::escape::escape;
use tracer_core::report::{Colors, ellipsize};
use tracer_core::verdict::{Reason, Verdict};

use super::environment::SettingsFinding;
use super::verdicts::{AuditedPair, AuditedSidecar};

/// What an audit came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sidecars.
    pub sidecars: usize,
    /// Pairs of a sidecar and an address of a proxy.
    pub pairs: usize,
    /// Pairs whose sessions would be flagged.
    pub flagged: usize,
    /// Pairs without an answer.
    pub unanswered: usize,
    /// Findings about settings.
    pub findings: usize,
}

impl Counts {
    /// Counts the answers.
    pub fn of(sidecars: &[AuditedSidecar]) -> Self {
        let pairs = || sidecars.iter().flat_map(|sidecar| &sidecar.pairs);
        Self {
            sidecars: sidecars.len(),
            pairs: pairs().count(),
            flagged: pairs().filter(|pair| pair.flagged).count(),
            unanswered: pairs().filter(|pair| pair.error.is_some()).count(),
            findings: sidecars.iter().map(|sidecar| sidecar.findings.len()).sum(),
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        let Self { sidecars, pairs, flagged, unanswered, findings } = self;
        let plural = |count: &usize, one: &str, more: &str| {
            format!("{count} {}", if *count == 1 { one } else { more })
        };
        let mut parts = vec![
            plural(sidecars, "sidecar", "sidecars"),
            plural(pairs, "use of a proxy", "uses of a proxy"),
            format!("{flagged} flagged"),
        ];
        if *unanswered > 0 {
            parts.push(format!("{unanswered} not answered"));
        }
        if *findings > 0 {
            parts.push(plural(findings, "finding about settings", "findings about settings"));
        }
        parts.join(", ")
    }
}

/// One line of JSON: a pair, or a finding.
#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    pod: Option<&'a str>,
    sidecar: &'a str,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Pair(&'a AuditedPair),
    Finding(&'a SettingsFinding),
    Error { error: &'a str },
}

/// Writes one line for each pair and each finding, and for each sidecar that has neither and could not be read.
pub fn json(sidecars: &[AuditedSidecar], out: &mut impl Write) -> std::io::Result<()> {
    for sidecar in sidecars {
        let mut line = |content| {
            let pod = sidecar.is_pod.then_some(sidecar.name.as_str());
            serde_json::to_writer(&mut *out, &Line { v: 1, pod, sidecar: &sidecar.name, content })?;
            out.write_all(b"\n")
        };
        sidecar.pairs.iter().try_for_each(|pair| line(Content::Pair(pair)))?;
        sidecar.findings.iter().try_for_each(|finding| line(Content::Finding(finding)))?;
        match &sidecar.error {
            Some(error) if sidecar.pairs.is_empty() => line(Content::Error { error })?,
            _ => {}
        }
    }
    Ok(())
}

/// A row before it is laid out.
struct Row {
    rank: u8,
    cells: [String; 4],
    style: Style,
    mark: &'static str,
}

const HEADINGS: [&str; 4] = ["SIDECAR", "PROXY", "RESULT", "CAUSE"];

/// The least width of a column that is cut.
const MIN_CELL: usize = 12;

/// The width of the cause that other columns give way to.
const CAUSE: usize = 24;

/// The table: what is flagged first, then what is not answered; then findings about settings.
pub fn table(sidecars: &[AuditedSidecar], colors: Colors, width: usize, marks: bool) -> String {
    let mut rows: Vec<Row> = sidecars
        .iter()
        .flat_map(|sidecar| sidecar.pairs.iter().map(|pair| row(sidecar, pair, marks)))
        .collect();
    for sidecar in sidecars.iter().filter(|sidecar| sidecar.pairs.is_empty()) {
        let (result, cause) = match &sidecar.error {
            Some(error) => ("not answered", error.as_str()),
            None => ("no proxy known", "no variable names one and no session was seen (--to gives one)"),
        };
        rows.push(Row {
            rank: 2,
            cells: [&sidecar.name, "", result, cause].map(|cell| escape(cell).into_owned()),
            style: Style::new().dimmed(),
            mark: " ",
        });
    }
    rows.sort_by_key(|row| row.rank);
    let mut text = String::new();
    if !rows.is_empty() {
        lay_out(&rows, colors, width, &mut text);
    }
    findings(sidecars, colors, width, &mut text);
    text
}

fn row(sidecar: &AuditedSidecar, pair: &AuditedPair, marks: bool) -> Row {
    let proxy = match pair.to {
        Some(to) if to.to_string() != pair.proxy => format!("{} {to}", pair.proxy),
        _ => pair.proxy.clone(),
    };
    let proxy = format!("{proxy} ({})", pair.known_from.join(", "));
    let result = match (pair.verdict, &pair.error) {
        (_, Some(_)) => "not answered".to_owned(),
        (Some(verdict), None) => {
            let reason = pair.reason.map(Reason::name);
            let status = pair.status.map(|status| status.to_string());
            let words =
                [Some(verdict.name()), reason, status.as_deref(), (!pair.certain).then_some("(not certain)")];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        (None, None) => "undecided".to_owned(),
    };
    let cause =
        pair.error.as_ref().or(pair.cause.as_ref()).or(pair.caveats.first()).cloned().unwrap_or_default();
    let (rank, style, mark) = match (pair.flagged, &pair.error, pair.verdict) {
        (true, ..) => (0, AnsiColor::Red.on_default().bold(), if marks { "✗" } else { "x" }),
        (false, Some(_), _) | (false, None, None) => (1, AnsiColor::Yellow.on_default(), "!"),
        (false, None, Some(Verdict::Tunneled | Verdict::Direct)) if pair.certain => {
            (3, AnsiColor::Green.on_default(), " ")
        }
        (false, None, Some(_)) => (2, AnsiColor::Yellow.on_default(), "!"),
    };
    let cells = [&sidecar.name, &proxy, &result, &cause].map(|cell| escape(cell).into_owned());
    Row { rank, cells, style, mark }
}

fn lay_out(rows: &[Row], colors: Colors, width: usize, text: &mut String) {
    let longest = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or_default()
    };
    let mut widths = [0, 1, 2, 3].map(longest);
    // Mark and gaps. The cause gives way first, then the widest column.
    let room = width.saturating_sub(2 + 3 * 2);
    while widths.iter().sum::<usize>() > room {
        let widest = if widths[3] > CAUSE { Some(3) } else { (0..3).max_by_key(|at| widths[*at]) };
        let Some(widest) = widest.filter(|at| widths[*at] > MIN_CELL) else { break };
        widths[widest] -= 1;
    }
    let mut line = |mark: &str, style: Style, cells: [&str; 4]| {
        let cells: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| {
                let cell = ellipsize(cell, width);
                format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
            })
            .collect();
        let line = format!("{mark} {}", cells.join("  "));
        colors.push_line(text, style, line.trim_end());
    };
    line(" ", Style::new().bold(), HEADINGS);
    for row in rows {
        line(row.mark, row.style, [0, 1, 2, 3].map(|at| row.cells[at].as_str()));
    }
}

fn findings(sidecars: &[AuditedSidecar], colors: Colors, width: usize, text: &mut String) {
    let found = || sidecars.iter().filter(|sidecar| !sidecar.findings.is_empty());
    if found().next().is_none() {
        return;
    }
    text.push('\n');
    colors.push_line(text, Style::new().bold(), "  SETTINGS");
    for sidecar in found() {
        for finding in &sidecar.findings {
            let line = format!("{}  {}: {}", sidecar.name, finding.code.as_ref(), finding.finding);
            let options = textwrap::Options::new(width).initial_indent("! ").subsequent_indent("    ");
            for line in textwrap::wrap(
                &escape(&line),
                options.break_words(false).word_splitter(textwrap::WordSplitter::NoHyphenation),
            ) {
                colors.push_line(text, Style::new(), line.trim_end());
            }
        }
    }
}
