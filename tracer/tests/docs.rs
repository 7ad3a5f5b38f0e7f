//! The documents agree with the code: every verdict has its page and every reason its section, because alerts and reports
//! link there, and every relative link leads to an existing page and section.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tracer_core::verdict::{Reason, Verdict};

/// The sections of every verdict's page, in this order.
const SECTIONS: [&str; 7] = [
    "What it means",
    "What the app shows",
    "What the proxy's log shows",
    "What Envoy's access log shows",
    "How to confirm it by hand",
    "What to change",
    "What does not help",
];

const LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(verdict: Verdict) -> String {
    let path = root().join(format!("docs/verdicts/{}.md", verdict.name()));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn verdicts() -> impl Iterator<Item = Verdict> {
    Verdict::ALL.iter().copied()
}

fn reasons() -> impl Iterator<Item = Reason> {
    Reason::ALL.iter().copied()
}

/// The verdict whose page has the section of this reason. Fails unless there is exactly one.
fn verdict_of(reason: Reason) -> Verdict {
    let found: Vec<Verdict> =
        verdicts().filter(|verdict| headings(&page(*verdict)).contains(&reason.name())).collect();
    assert_eq!(found.len(), 1, "pages with a section {}: {found:?}", reason.name());
    found[0]
}

/// The lines of a page outside code blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut code = false;
    let is_prose = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(is_prose).collect()
}

fn headings(text: &str) -> Vec<&str> {
    let lines = prose(text).into_iter().filter(|line| line.starts_with('#'));
    lines.map(|line| line.trim_start_matches('#').trim()).collect()
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn every_verdict_has_its_page() {
    for verdict in verdicts() {
        let text = page(verdict);
        let headings = headings(&text);
        assert_eq!(headings.first(), Some(&verdict.name()), "the title of its page");
        let sections: Vec<&str> = headings.into_iter().filter(|heading| SECTIONS.contains(heading)).collect();
        assert_eq!(sections, SECTIONS, "{}", verdict.name());
        let flagged = if verdict.is_flagged() { "**Flagged: yes.**" } else { "**Flagged: no.**" };
        assert!(text.contains(flagged), "{} does not say {flagged}", verdict.name());
    }
}

#[test]
fn every_reason_has_its_section_in_one_page() {
    for reason in reasons() {
        verdict_of(reason);
    }
}

#[test]
fn index_lists_every_verdict_and_reason_and_each_page_has_a_verdict() {
    let index = fs::read_to_string(root().join("docs/verdicts/README.md")).expect("the index");
    for verdict in verdicts() {
        assert!(index.contains(&format!("[`{0}`]({0}.md)", verdict.name())), "{}", verdict.name());
    }
    for reason in reasons() {
        let link = format!("[`{0}`]({1}.md#{0})", reason.name(), verdict_of(reason).name());
        assert!(index.contains(&link), "{link}");
    }
    let due: BTreeSet<String> = verdicts().map(|verdict| format!("{}.md", verdict.name())).collect();
    let there = fs::read_dir(root().join("docs/verdicts")).expect("the pages");
    let there = there.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    assert_eq!(there.filter(|name| name != "README.md").collect::<BTreeSet<_>>(), due);
}

/// Every page at the top of the repository and below docs.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut dirs = vec![root().join("docs")];
    let top = fs::read_dir(root()).expect("the repository").map(|entry| entry.expect("an entry").path());
    pages.extend(top.filter(|path| path.is_file()));
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("docs") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { pages.push(path) }
        }
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// The targets of a page's links, except those to other sites.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // Text between backticks is code.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for rest in plain.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push(target.to_owned());
            }
        }
    }
    links
}

#[test]
fn relative_links_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for path in pages() {
        let text = fs::read_to_string(&path).expect("a page");
        for link in links(&text) {
            checked += 1;
            let (file, section) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let found = target.exists()
                && (section.is_empty()
                    || fs::read_to_string(&target)
                        .is_ok_and(|text| headings(&text).iter().any(|heading| anchor(heading) == section)));
            if !found {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 20, "only {checked} links were found");
}

#[test]
fn pages_are_short() {
    for path in pages().into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "docs")) {
        let lines = fs::read_to_string(&path).expect("a page").lines().count();
        assert!(lines <= LINES, "{} has {lines} lines; {LINES} is the most", path.display());
    }
}
