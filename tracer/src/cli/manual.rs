//! Manual pages, made from the command line's own definition, with the verdicts, the exit status and the environment.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use tracer_core::verdict::{Severity, Verdict};

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  egress-tracer man | man -l -
  egress-tracer man /usr/local/share/man/man1";

#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Write the pages of all commands to this directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Variables that decide how text looks.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("COLUMNS", "The width of text, in columns, in place of the terminal's own."),
    ("LC_ALL, LC_CTYPE, LANG", "A locale that is not UTF-8 gets plain ASCII: x for a fault, and no arrows."),
    ("NO_COLOR", "If it is set and not empty, text has no color (https://no-color.org)."),
    ("TERM", "A terminal of the type \"dumb\" gets plain ASCII without color."),
];

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.dir else {
        std::io::stdout().write_all(&page(&command)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    for command in std::iter::once(&command).chain(command.get_subcommands().filter(|one| !one.is_hide_set()))
    {
        let name = Man::new(command.clone()).get_filename();
        write(&dir.join(name), &page(command)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, page: &[u8]) -> anyhow::Result<()> {
    fs::write(path, page).with_context(|| format!("cannot write the manual page {}", path.display()))
}

/// The page of one command.
fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut own = Roff::new();
    if command.has_subcommands() || has(command, "verdict") {
        verdicts(&mut own);
    }
    exit_status(&mut own, command);
    environment(&mut own, command);
    if let Some(examples) = command.get_after_help() {
        let examples = examples.to_string();
        own.control("SH", ["EXAMPLES"]);
        own.control("nf", []);
        for line in examples.lines().skip_while(|line| line.starts_with("Examples")) {
            own.text([roman(line)]);
        }
        own.control("fi", []);
    }
    own.control("SH", ["SEE ALSO"]);
    own.text([roman("The pages of the verdicts, and the way from an alert to a fix: docs/ in the repository of egress-tracer.")]);
    own.to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn has(command: &Command, arg: &str) -> bool {
    command.get_arguments().any(|one| one.get_id() == arg)
}

/// A term, and below it what it means.
fn term(page: &mut Roff, name: &str, meaning: &str) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text([roman(meaning)]);
}

fn verdicts(page: &mut Roff) {
    page.control("SH", ["VERDICTS"]);
    page.text([roman("A flagged verdict says that a sidecar's configuration is at fault.")]);
    for verdict in Verdict::ALL {
        let kind = match verdict.severity() {
            Severity::Flagged => "Flagged. ",
            Severity::Doubtful | Severity::Good => "",
        };
        term(page, verdict.name(), &format!("{kind}{}", verdict.meaning()));
    }
}

fn exit_status(page: &mut Roff, command: &Command) {
    page.control("SH", ["EXIT STATUS"]);
    term(page, "0", "The command did what it was asked for.");
    term(page, "1", "It failed; a sentence on standard error says why.");
    term(page, "2", "The command line is wrong.");
    if command.has_subcommands() || has(command, "fail_on") {
        term(page, "3", "With --fail-on: such a session was seen, or would be.");
    }
    if command.has_subcommands() || command.get_name() == "audit" {
        term(page, "4", "With --fail-on: nothing could be judged.");
    }
}

fn environment(page: &mut Roff, command: &Command) {
    page.control("SH", ["ENVIRONMENT"]);
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let Some(name) = arg.get_env() else { continue };
        let flag = arg.get_long().map(|long| format!("The default of --{long}. ")).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        term(page, &name.to_string_lossy(), &format!("{flag}{help}"));
    }
    for (name, meaning) in ENVIRONMENT {
        term(page, name, meaning);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_sections() {
        let dir = tempfile::tempdir().expect("a directory");
        man(&ManArgs { dir: Some(dir.path().to_owned()) }, Cli::command()).expect("pages");
        let page = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a page");
        let main = page("egress-tracer.1");
        assert!(main.contains("egress\\-tracer\\-observe(1)"), "{main}");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let text = page(&format!("egress-tracer-{name}.1"));
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", "NO_COLOR"]
            {
                assert!(text.contains(section), "{name}: no {section}: {text}");
            }
            assert!(name == "version" || text.contains(".SH EXAMPLES"), "{name}");
        }
        let observe = page("egress-tracer-observe.1");
        for words in [
            "EGRESS_TRACER_SOCKET",
            "CONTAINER_RUNTIME_ENDPOINT",
            "NODE_NAME",
            "handled_as_http",
            "With \\-\\-fail\\-on",
        ] {
            assert!(observe.contains(words), "no {words}: {observe}");
        }
    }
}
