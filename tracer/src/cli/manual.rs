//! Shell completions and manual pages, made from the command line's own definition.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  egress-tracer completions bash > /etc/bash_completion.d/egress-tracer
  egress-tracer completions zsh > \"${fpath[1]}/_egress-tracer\"
  source <(egress-tracer completions bash)";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  egress-tracer man | man -l -
  egress-tracer man /usr/local/share/man/man1";

#[derive(clap::Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(clap::Args, Debug)]
pub(super) struct ManArgs {
    /// Write the pages of all commands to this directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "egress-tracer", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    std::io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_shell_completes_every_command_and_flag() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            generate(*shell, &mut Cli::command(), "egress-tracer", &mut script);
            let script = String::from_utf8(script).expect("UTF-8");
            for word in ["observe", "top", "status", "explain", "http-status", "standalone"] {
                assert!(script.contains(word), "{shell} knows no {word}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page_and_an_example() {
        let dir = tempfile::tempdir().expect("a directory");
        man(&ManArgs { dir: Some(dir.path().to_owned()) }, Cli::command()).expect("pages");
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("a page");
        assert!(page("egress-tracer.1").contains("egress\\-tracer\\-observe(1)"));
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "version") {
            let name = command.get_name();
            assert!(page(&format!("egress-tracer-{name}.1")).contains("Examples"), "{name}");
        }
    }
}
