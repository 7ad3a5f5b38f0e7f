//! The greps of `docs/style.md` over comments, command-line help and pages: words that name no actor, docstrings that do
//! not stand alone, and British spellings.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use regex::{Regex, RegexBuilder};

use crate::cargo;

/// One line of prose that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    text: String,
    hint: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.line, self.text, self.hint)
    }
}

/// A line of prose and its number; `opens` where it is the first line of a docstring.
#[derive(Debug, PartialEq, Eq)]
struct Prose<'a> {
    line: usize,
    text: &'a str,
    opens: bool,
}

struct Rules {
    /// A pattern and what to do instead.
    anywhere: Vec<(Regex, &'static str)>,
    opening: Regex,
    code_span: Regex,
}

const OPENING_HINT: &str = "a docstring stands alone: say what this is";

impl Rules {
    fn new() -> Result<Self> {
        let insensitive = |pattern: &str| RegexBuilder::new(pattern).case_insensitive(true).build();
        Ok(Self {
            anywhere: vec![
                (
                    insensitive(r"\b(whoever|somebody|nobody|anybody|everybody|whom|what is gone)\b")?,
                    "name the actor (app, sidecar, proxy, kernel, reader, agent)",
                ),
                (
                    insensitive(r"\b(dialled|dialling|cancelled|cancelling)\b")?,
                    "American spelling: dialed, canceled",
                ),
            ],
            opening: Regex::new(r"^(The same|As above|As for)\b")?,
            code_span: Regex::new("`[^`]*`")?,
        })
    }

    fn check(&self, prose: &Prose<'_>, findings: &mut Vec<Finding>) {
        // A code span quotes an identifier, such as the user `nobody`.
        let text = self.code_span.replace_all(prose.text, "");
        for (pattern, hint) in &self.anywhere {
            for found in pattern.find_iter(&text) {
                findings.push(Finding { line: prose.line, text: found.as_str().to_owned(), hint });
            }
        }
        if prose.opens
            && let Some(found) = self.opening.find(prose.text.trim())
        {
            findings.push(Finding { line: prose.line, text: found.as_str().to_owned(), hint: OPENING_HINT });
        }
    }
}

/// Checks every Rust file and page that Git tracks. The changelog is left out: it tells history.
pub(crate) fn check() -> Result<()> {
    let rules = Rules::new()?;
    let mut wrong = Vec::new();
    for path in tracked()? {
        let full = cargo::workspace().join(&path);
        let text = fs::read_to_string(&full).with_context(|| format!("cannot read {path}"))?;
        let is_rust = Path::new(&path).extension().is_some_and(|extension| extension == "rs");
        let prose = if is_rust { comments(&text) } else { page(&text) };
        let mut findings = Vec::new();
        for prose in &prose {
            rules.check(prose, &mut findings);
        }
        wrong.extend(findings.iter().map(|finding| format!("{path}:{finding}")));
    }
    if !wrong.is_empty() {
        bail!("{} lines are not in the style of docs/style.md:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    Ok(())
}

/// Paths of what is checked, from the workspace.
fn tracked() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(cargo::workspace()).args(["ls-files", "-z", "--", "*.rs", "*.md", ":!CHANGELOG.md"]);
    let output = git.output().context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a path that is not UTF-8")?;
    // A file that is deleted but not yet committed is still listed.
    let exists = |path: &&str| !path.is_empty() && cargo::workspace().join(path).exists();
    Ok(names.split('\0').filter(exists).map(str::to_owned).collect())
}

/// The lines of a page outside of fenced code.
fn page(text: &str) -> Vec<Prose<'_>> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(Prose { line, text, opens: false });
        }
    }
    lines
}

/// The comments of a Rust file, line by line. Help of the command line stands in docstrings, or in string literals after
/// `help =` and `about =`. `//` inside a literal counts only where an even number of quotes precedes it on its line.
fn comments(text: &str) -> Vec<Prose<'_>> {
    let mut lines = Vec::new();
    let mut in_docstring = false;
    for (line, text) in (1..).zip(text.lines()) {
        let code = text.trim_start();
        let doc = ["///", "//!"].iter().find_map(|mark| code.strip_prefix(mark));
        if let Some(text) = doc {
            lines.push(Prose { line, text, opens: !in_docstring });
        } else if let Some(at) = comment_start(text) {
            lines.push(Prose { line, text: &text[at..], opens: false });
        } else if ["help", "about"].iter().any(|name| code.contains(&format!("{name} = \""))) {
            lines.push(Prose { line, text, opens: false });
        }
        in_docstring = doc.is_some();
    }
    lines
}

fn comment_start(line: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        let quotes = line[..at].replace("\\\"", "").replace("'\"'", "").matches('"').count();
        if quotes.is_multiple_of(2) {
            return Some(at);
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prose: &[Prose<'_>]) -> Vec<(usize, String)> {
        let rules = Rules::new().expect("valid patterns");
        let mut findings = Vec::new();
        for prose in prose {
            rules.check(prose, &mut findings);
        }
        findings.into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    #[test]
    fn words_are_found_in_comments_and_not_in_code() {
        let source = concat!(
            "/// Who",
            "ever reads this.\n",
            "let url = \"http://some",
            "body\"; // the address that was dial",
            "led\n",
            "let word = \"no",
            "body\";\n",
            "//  the user `no",
            "body`\n",
            "#[arg(help = \"Requests that were cancel",
            "led\")]\n",
        );
        let expected = [(1, "Whoever"), (2, "dialled"), (5, "cancelled")];
        assert_eq!(found(&comments(source)), expected.map(|(line, word)| (line, word.to_owned())));
    }

    #[test]
    fn only_the_first_line_of_a_docstring_must_stand_alone() {
        let source = concat!(
            "/// The ",
            "same for IPv6.\n",
            "fn one() {}\n",
            "/// Binds an address.\n",
            "/// The ",
            "same one twice is an error.\n",
            "// The ",
            "same in a plain comment.\n",
        );
        assert_eq!(found(&comments(source)), [(1, "The same".to_owned())]);
    }

    #[test]
    fn fenced_code_of_a_page_is_left_out() {
        let text = concat!("any", "body\n```\nany", "body\n```\ncancel", "led\n");
        let expected = [(1, "anybody"), (5, "cancelled")];
        assert_eq!(found(&page(text)), expected.map(|(line, word)| (line, word.to_owned())));
    }
}
