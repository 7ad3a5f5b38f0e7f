//! The documentation keeps up with the code: every verdict has its page and every reason its section, as the alerts and
//! the reports link there, and no relative link leads nowhere.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tracer_core::verdict::{Reason, Verdict};

/// What every page answers, in this order.
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

fn home(reason: Reason) -> Verdict {
    match reason {
        Reason::RouteNotFound
        | Reason::UpgradeFailed
        | Reason::FilterDenied
        | Reason::Http10Refused
        | Reason::BadRequest
        | Reason::NotImplemented
        | Reason::UpstreamFailed
        | Reason::Forwarded
        | Reason::Terminated
        | Reason::OtherStatus => Verdict::HandledAsHttp,
        Reason::ConnectFailed | Reason::ClosedWithoutReply => Verdict::Unreachable,
    }
}

/// The lines of a page that are not inside a block of code.
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

/// As GitHub makes it.
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
    for verdict in Verdict::ALL {
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
fn every_reason_has_its_section() {
    for reason in Reason::ALL {
        let text = page(home(reason));
        assert!(headings(&text).contains(&reason.name()), "{} has no section", reason.name());
    }
}

#[test]
fn the_index_lists_all_and_nothing_else() {
    let index = fs::read_to_string(root().join("docs/verdicts/README.md")).expect("the index");
    for verdict in Verdict::ALL {
        assert!(index.contains(&format!("[`{0}`]({0}.md)", verdict.name())), "{}", verdict.name());
    }
    for reason in Reason::ALL {
        let link = format!("[`{0}`]({1}.md#{0})", reason.name(), home(reason).name());
        assert!(index.contains(&link), "{link}");
    }
    let due: BTreeSet<String> = Verdict::ALL.iter().map(|verdict| format!("{}.md", verdict.name())).collect();
    let there = fs::read_dir(root().join("docs/verdicts")).expect("the pages");
    let there = there.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    assert_eq!(there.filter(|name| name != "README.md").collect::<BTreeSet<_>>(), due);
}

/// All pages of the repository: those at its top, and those below docs.
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

/// Where the links of a page lead to, less those to other sites.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // What is between backticks is code.
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
