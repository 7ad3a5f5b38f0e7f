//! The explanation for people: the conclusion first, its cause, how sure it is and of what, then one line for each fix. The
//! steps, proofs and manifests come with `-v`. Every text that is not our own is escaped here.

use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSplitter};
use tracer_core::escape::escape;
use tracer_core::report::Colors;
use tracer_mesh::{Explanation, Fix, render};

use super::answer::{Answer, Severity, Unanswered, headline, severity, whose};

/// How the text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub colors: Colors,
    /// Columns.
    pub width: usize,
    /// Marks beyond ASCII.
    pub marks: bool,
    /// Steps, proofs and manifests.
    pub verbose: bool,
}

/// Objects at fault that are listed for each address.
const SHOWN: usize = 5;

/// Width of the names at the beginning of lines.
const NAMES: usize = 9;

/// Width of a manifest's comments.
const COMMENT: usize = 98;

/// How text is wrapped: names of hosts, clusters and objects stay in one piece.
fn options<'a>(width: usize) -> Options<'a> {
    Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation)
}

struct Page {
    layout: Layout,
    text: String,
}

/// The text for all addresses of one proxy.
pub(super) fn text(
    answers: &[Answer],
    unanswered: &[Unanswered],
    unreadable: usize,
    layout: Layout,
) -> String {
    let mut page = Page { layout, text: String::new() };
    let mut rest = answers;
    while let Some((first, others)) = rest.split_first() {
        let same = others.iter().take_while(|other| is_same_cause(first, other)).count();
        let (group, next) = rest.split_at(same + 1);
        page.group(group);
        rest = next;
    }
    for failed in unanswered {
        page.headline(Severity::Doubtful, &failed.to, "not answered");
        page.row("why", &failed.error);
        page.end_of_block();
    }
    let Some(first) = answers.first() else { return page.text };
    page.basis(first, unreadable);
    page.tried(answers);
    page.fixes(&first.explanation);
    page.text
}

/// Whether two addresses have the same fate for the same reason, so that one explanation serves both.
fn is_same_cause(one: &Answer, other: &Answer) -> bool {
    let (a, b) = (&one.explanation, &other.explanation);
    let (c, d) = (&a.decision, &b.decision);
    (
        a.decision.verdict,
        c.reason,
        c.status,
        &c.details,
        &c.listener,
        &c.filter_chain,
        &c.cluster,
        &c.caveats,
        &a.origins,
    ) == (
        d.verdict,
        d.reason,
        d.status,
        &d.details,
        &d.listener,
        &d.filter_chain,
        &d.cluster,
        &d.caveats,
        &b.origins,
    ) && c.outcome == d.outcome
        && c.sent_to == d.sent_to
}

impl Page {
    fn group(&mut self, group: &[Answer]) {
        let Some(first) = group.first() else { return };
        for answer in group {
            let address = match &answer.name {
                Some(name) => format!("{} ({name})", answer.explanation.to),
                None => answer.explanation.to.to_string(),
            };
            let decision = &answer.explanation.decision;
            let code = answer.explanation.code.map(|code| format!("  {code}")).unwrap_or_default();
            self.headline(severity(decision), &address, &format!("{}{code}", headline(decision)));
        }
        let explanation = &first.explanation;
        self.paragraph(2, &explanation.explanation);
        self.causes(explanation);
        self.row("certain", &certainty(explanation));
        if let Some(late) = &explanation.decision.late {
            self.row("time", &render::late(late));
        }
        for note in &explanation.decision.notes {
            self.row("note", &format!("{note}."));
        }
        if self.layout.verbose {
            for (number, step) in explanation.decision.steps.iter().enumerate() {
                self.row(if number == 0 { "steps" } else { "" }, &format!("{}. {step}", number + 1));
            }
        }
        self.end_of_block();
    }

    fn causes(&mut self, explanation: &Explanation) {
        for (nth, origin) in explanation.origins.iter().take(SHOWN).enumerate() {
            let port = origin.port.map(|port| format!(" port {port}")).unwrap_or_default();
            let host = match (&origin.name, &origin.host) {
                (Some(_), Some(host)) => format!(" ({host})"),
                _ => String::new(),
            };
            self.row(if nth == 0 { "cause" } else { "" }, &format!("{}{port}{host}", origin.label()));
        }
        let shown = explanation.origins.len().min(SHOWN);
        if explanation.origins_total > shown {
            self.row("", &format!("and {} more", explanation.origins_total - shown));
        }
    }

    /// What the answer rests on.
    fn basis(&mut self, first: &Answer, unreadable: usize) {
        self.row("from", &whose(&first.explanation.subject));
        for assumed in first.explanation.assumed.values() {
            self.row("assumed", assumed);
        }
        if unreadable > 0 {
            self.row(
                "note",
                &format!("{unreadable} entries of the dump could not be read and were left out."),
            );
        }
    }

    /// What the candidate of `--try` makes of each address.
    fn tried(&mut self, answers: &[Answer]) {
        let mut is_first = true;
        for answer in answers {
            let Some(tried) = &answer.tried else { continue };
            if std::mem::take(&mut is_first) {
                self.end_of_block();
                let title = self.styled(Style::new().bold(), "with the candidate applied");
                self.line(&title);
            }
            self.headline(
                severity(&tried.decision),
                &answer.explanation.to.to_string(),
                &headline(&tried.decision),
            );
            for note in &tried.candidate_notes {
                self.row("note", note);
            }
            let caveats = tried.candidate_caveats.iter().chain(&tried.decision.caveats);
            for caveat in caveats {
                self.row("unless", caveat);
            }
            if self.layout.verbose {
                for (number, step) in tried.decision.steps.iter().enumerate() {
                    self.row(if number == 0 { "steps" } else { "" }, &format!("{}. {step}", number + 1));
                }
            }
        }
    }

    fn fixes(&mut self, first: &Explanation) {
        if let Some(why) = first.no_fix_because {
            self.row("fix", &format!("none that could be proven on this configuration: {why}."));
        }
        if first.fixes.is_empty() {
            return;
        }
        self.end_of_block();
        for (index, fix) in first.fixes.iter().enumerate() {
            if self.layout.verbose {
                self.whole_fix(index, fix);
            } else {
                let doubt = if fix.proven { "" } else { " (not proven)" };
                self.row(&format!("fix {}", index + 1), &format!("{}{doubt}", fix.title));
                self.row("", &format!("risk: {}", fix.risk));
            }
        }
        if !self.layout.verbose {
            self.row(
                "next",
                "-o yaml prints the first fix, --fix N another; -v shows proofs, manifests and steps",
            );
        }
    }

    fn whole_fix(&mut self, index: usize, fix: &Fix) {
        self.row(&format!("fix {}", index + 1), &fix.title);
        self.row("proof", &fix.proof);
        self.row("risk", &format!("{}. {}", fix.risk, fix.trade_off));
        self.row("apply", &format!("{}:", fix.apply));
        for line in fix.manifest.lines() {
            // A manifest is copied: it keeps its lines.
            let line = format!("{:indent$}{}", "", escape(line), indent = NAMES + 4);
            self.line(&line);
        }
        self.end_of_block();
    }

    fn headline(&mut self, severity: Severity, address: &str, words: &str) {
        let (mark, plain, style) = match severity {
            Severity::Bad => ("✗", "x", AnsiColor::Red.on_default().bold()),
            Severity::Doubtful => ("!", "!", AnsiColor::Yellow.on_default()),
            Severity::Good => (" ", " ", AnsiColor::Green.on_default()),
        };
        let mark = self.styled(style, if self.layout.marks { mark } else { plain });
        let address = self.styled(Style::new().bold(), &escape(address));
        let words = self.styled(style, &escape(words));
        self.line(&format!("{mark} {address}  {words}"));
    }

    /// `name`, and the text beside it, wrapped.
    fn row(&mut self, name: &str, content: &str) {
        let content = escape(content);
        let indent = " ".repeat(NAMES + 2);
        let width = self.layout.width.saturating_sub(indent.len()).max(20);
        for (nth, line) in textwrap::wrap(&content, Options::new(width).break_words(false)).iter().enumerate()
        {
            let name = if nth == 0 { name } else { "" };
            let name = self.styled(Style::new().dimmed(), &format!("{name:NAMES$}"));
            self.line(&format!("  {name}{line}"));
        }
    }

    fn paragraph(&mut self, indent: usize, content: &str) {
        let content = escape(content);
        let blank = " ".repeat(indent);
        let options = options(self.layout.width).initial_indent(&blank).subsequent_indent(&blank);
        for line in textwrap::wrap(&content, options) {
            self.line(&line);
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn end_of_block(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        match self.layout.colors {
            Colors::On => format!("{style}{text}{style:#}"),
            Colors::Off => text.to_owned(),
        }
    }
}

/// `yes`, or what is open.
fn certainty(explanation: &Explanation) -> String {
    let decision = &explanation.decision;
    if decision.certain {
        return "yes".to_owned();
    }
    let filters =
        decision.early_filters.iter().map(|filter| format!("HTTP filter {filter} may answer first"));
    let open: Vec<String> = decision.caveats.iter().cloned().chain(filters).collect();
    format!("no: {}", open.join("; "))
}

/// A fix's manifest under comments: how it is applied, what it is for and rests on, what it costs.
pub(super) fn manifest(fix: &Fix, answers: &[Answer]) -> String {
    let mut text = String::new();
    let addresses: Vec<String> = answers
        .iter()
        .filter(|answer| answer.explanation.decision.is_fault())
        .map(|answer| answer.explanation.to.to_string())
        .collect();
    let mut comments = vec![
        fix.title.clone(),
        format!("Apply, saved as fix.yaml: {}", fix.apply),
        format!("For: {}", addresses.join(", ")),
    ];
    if let Some(first) = answers.first() {
        comments.push(format!("Made for {}", whose(&first.explanation.subject)));
        let caveats = &first.explanation.decision.caveats;
        comments.extend(caveats.iter().map(|caveat| format!("Not certain: {caveat}")));
    }
    let request = answers.first().and_then(|first| first.explanation.assumed.get("request"));
    comments.extend(request.map(|request| format!("Assumed: {request}")));
    comments.push(fix.proof.clone());
    comments.push(format!("Risk: {}. {}", fix.risk, fix.trade_off));
    for comment in comments {
        for line in textwrap::wrap(&escape(&comment), options(COMMENT)) {
            text.push_str("# ");
            text.push_str(&line);
            text.push('\n');
        }
    }
    text + &render::escape_lines(&fix.manifest)
}

/// One fix in full.
pub(super) fn one_fix(number: usize, fix: &Fix, layout: Layout) -> String {
    let mut page = Page { layout, text: String::new() };
    page.whole_fix(number, fix);
    page.text
}
