//! What the commands that need no kernel print in terminals of several widths, plain and in color. No line is longer than its
//! terminal, unless a word is.

use std::path::{Path, PathBuf};
use std::process::Command;

const WIDTHS: [usize; 3] = [80, 120, 200];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Standard output in a terminal of so many columns.
fn printed(args: &[&str], columns: usize, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-tracer"));
    command.args(args).env_clear().envs([("LC_ALL", "C.UTF-8"), ("TERM", "xterm"), ("TZ", "UTC")]);
    command.env("COLUMNS", columns.to_string()).envs(variables.iter().copied());
    String::from_utf8(command.output().expect("it runs").stdout).expect("UTF-8")
}

fn without_styles(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

/// The text without what depends on today's date.
fn without_age(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| match line.split_once(", configuration ") {
        Some((before, _)) => format!("{before}, configuration of some age\n"),
        None => line.to_owned(),
    });
    lines.collect()
}

#[track_caller]
fn assert_fits(text: &str, columns: usize) {
    for line in without_styles(text).lines() {
        // An indent and a name may stand before a word that is longer than the rest of the line.
        let longest = line.split_whitespace().map(|word| word.chars().count()).max().unwrap_or_default();
        assert!(line.chars().count() <= columns || longest + 16 > columns, "{columns}: {line}\n{text}");
    }
}

/// Takes a snapshot in every width, plain and in color, which say the same.
fn snapshots(name: &str, args: &[&str]) {
    for columns in WIDTHS {
        let plain = printed(&[args, &["--color", "never"]].concat(), columns, &[]);
        let colored = printed(&[args, &["--color", "always"]].concat(), columns, &[]);
        assert!(!plain.is_empty() && colored.contains("\x1b["), "{name}: {plain}{colored}");
        assert_eq!(without_styles(&colored), plain, "{name}: color says more than words");
        // A manifest is copied, so it keeps its lines.
        if !args.contains(&"-v") {
            assert_fits(&plain, columns);
        }
        insta::assert_snapshot!(format!("{name}_{columns}"), without_age(&plain));
        let colored = without_age(&colored).replace('\x1b', "<ESC>");
        insta::assert_snapshot!(format!("{name}_{columns}_in_color"), colored);
        let ascii = printed(args, columns, &[("TERM", "dumb")]);
        assert!(ascii.is_ascii(), "{name}: {ascii}");
        assert_eq!(printed(args, columns, &[("LC_ALL", "C")]), ascii, "{name}");
    }
}

fn case(name: &str) -> String {
    repository("tests/cases").join(name).join("config_dump.json").display().to_string()
}

#[test]
fn explain_in_every_width() {
    let dump = case("c01_unrelated_http_service_same_port");
    let explain = ["explain", "--config-dump", &dump, "--to", "10.0.0.1:3128,10.0.0.2:3128"];
    snapshots("explain", &explain);
    snapshots("explain_verbose", &[&explain[..], &["-v"]].concat());
    let fine = case("c02_no_listener_allow_any");
    snapshots("explain_fine", &["explain", "--config-dump", &fine, "--to", "10.0.0.1:3128"]);
}

#[test]
fn audit_in_every_width() {
    let (one, other) = (case("c01_unrelated_http_service_same_port"), case("c02_no_listener_allow_any"));
    let audit = ["audit", "--to", "10.0.0.1:3128", "--config-dump", &one, "--config-dump", &other];
    for columns in WIDTHS {
        let plain = printed(&audit, columns, &[]);
        assert_fits(&plain, columns);
        // The files' paths name the repository's place.
        let text = plain.replace(&repository("tests/cases").display().to_string(), "CASES");
        assert!(text.contains("Service shop/web"), "{text}");
    }
}

#[test]
fn replay_in_every_width() {
    let trace = repository("tests/traces/gotcha.jsonl").display().to_string();
    snapshots("replay", &["replay", &trace, "--explain"]);
    snapshots("replay_table", &["replay", &trace, "-o", "table"]);
}
