//! Shell completions: the script of a shell, which asks this program, and the answers, of which some come from the agent.

use std::{collections::BTreeSet, io::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Arg, Command, CommandFactory as _, ValueEnum};
use clap_complete::{
    ArgValueCandidates, CompletionCandidate,
    env::{CompleteEnv, Shells},
};
use tokio::time::timeout;

use super::Cli;
use crate::live::Client;
use tracer_core::{
    report::{Report, Reports},
    verdict::Verdict,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  source <(egress-tracer completions bash)                  this shell; in ~/.bashrc: every shell
  egress-tracer completions bash > /etc/bash_completion.d/egress-tracer
  egress-tracer completions zsh > \"${fpath[1]}/_egress-tracer\"
  egress-tracer completions fish > ~/.config/fish/completions/egress-tracer.fish";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// The variable by which a script asks.
const VARIABLE: &str = "EGRESS_TRACER_COMPLETE";
/// The program that is completed.
const PROGRAM: &str = "egress-tracer";
/// How long the agent may take: a person waits behind the tab key.
const PATIENCE: Duration = Duration::from_millis(300);
/// How many of the agent's reports are looked at.
const LOOKED_AT: u64 = 1_000;

/// Answers the script of a shell, and ends the process, where one asks.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(completed).var(VARIABLE).bin(PROGRAM).complete();
}

/// Prints the script of a shell.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.shell.to_possible_value().context("a shell")?.get_name().to_owned();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).with_context(|| format!("no completions for {name}"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, PROGRAM, PROGRAM, &completer(), &mut script)?;
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// The program that the script asks: this one as it was called, wherever the shell is then.
fn completer() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| PROGRAM.into());
    let path = Path::new(&called);
    let is_name = path.components().count() == 1;
    let whole =
        if is_name { path.to_owned() } else { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) };
    whole.to_string_lossy().into_owned()
}

/// The command line with the candidates for values.
fn completed() -> Command {
    let mut command = Cli::command();
    for name in ["observe", "top", "replay"] {
        command = command.mut_subcommand(name, |command| {
            command
                .mut_arg("verdict", |arg| {
                    with(arg, || candidates(Verdict::ALL.iter().map(|one| one.name().to_owned()), true))
                })
                .mut_arg("namespace", |arg| of_agent(arg, |report| report.source.namespace.clone(), true))
                .mut_arg("pod", |arg| of_agent(arg, pod, true))
                .mut_arg("workload", |arg| of_agent(arg, workload, true))
                .mut_arg("to", |arg| of_agent(arg, |report| Some(report.proxy_address().to_string()), true))
                .mut_arg("authority", |arg| {
                    of_agent(arg, |report| Some(report.connect.authority.to_string()), true)
                })
                .mut_arg("http_status", |arg| of_agent(arg, status, true))
        });
    }
    for name in ["explain", "probe", "audit"] {
        command = command.mut_subcommand(name, |command| {
            command
                .mut_arg("pod", |arg| of_agent(arg, pod, false))
                .mut_arg("to", |arg| of_agent(arg, |report| Some(report.proxy_address().to_string()), false))
        });
    }
    command.mut_subcommand("audit", |command| {
        command.mut_arg("namespace", |arg| of_agent(arg, |report| report.source.namespace.clone(), false))
    })
}

fn with(arg: Arg, candidates: impl Fn() -> Vec<CompletionCandidate> + Send + Sync + 'static) -> Arg {
    arg.add(ArgValueCandidates::new(candidates))
}

/// Values of the sessions that the agent of this node has kept.
fn of_agent(arg: Arg, value: fn(&Report) -> Option<String>, may_be_negated: bool) -> Arg {
    with(arg, move || {
        let values: BTreeSet<String> =
            kept().iter().filter_map(|report| value(report)).filter(|value| is_plain(value)).collect();
        candidates(values.into_iter(), may_be_negated)
    })
}

/// The values, and with `may_be_negated` their forms with `!`, which come last.
fn candidates(values: impl Iterator<Item = String>, may_be_negated: bool) -> Vec<CompletionCandidate> {
    let values: Vec<String> = values.collect();
    let negated = values.iter().filter(|_| may_be_negated).map(|value| format!("!{value}"));
    let order = |(at, value): (usize, String)| CompletionCandidate::new(value).display_order(Some(at));
    values.iter().cloned().chain(negated).enumerate().map(order).collect()
}

/// Whether a value that came over the wire is harmless on a command line: a shell inserts it unquoted.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._:/[]".contains(letter))
}

fn pod(report: &Report) -> Option<String> {
    Some(format!("{}/{}", report.source.namespace.as_ref()?, report.source.pod.as_ref()?))
}

fn workload(report: &Report) -> Option<String> {
    Some(format!("{}/{}", report.source.namespace.as_ref()?, report.source.workload.as_ref()?))
}

fn status(report: &Report) -> Option<String> {
    Some(report.reply.as_ref()?.status?.to_string())
}

/// The sessions that the agent has kept; none where it does not answer at once.
fn kept() -> Reports {
    let socket =
        std::env::var_os(crate::live::SOCKET_VARIABLE).unwrap_or_else(|| crate::live::DEFAULT_SOCKET.into());
    let ask = async {
        let kept = async { Client::connect(Path::new(&socket)).await?.kept(LOOKED_AT).await };
        timeout(PATIENCE, kept).await?
    };
    super::block_on(ask).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completed_command_line_is_consistent() {
        completed().debug_assert();
    }

    #[test]
    fn verdicts_are_completed_with_their_negated_forms() {
        let names = Verdict::ALL.iter().map(|verdict| verdict.name().to_owned());
        let values: Vec<String> = candidates(names, true)
            .iter()
            .map(|candidate| candidate.get_value().to_string_lossy().into_owned())
            .collect();
        assert_eq!(values.len(), 2 * Verdict::ALL.len());
        assert!(values.contains(&"tunneled".to_owned()) && values.contains(&"!tunneled".to_owned()));
    }

    #[test]
    fn values_that_a_shell_would_run_are_left_out() {
        assert!(is_plain("shop/cart-7d9") && is_plain("[fd00::1]:3128"));
        for value in ["", "$(reboot)", "a;b", "a b", "`x`", "\u{1b}[31m", "a'b"] {
            assert!(!is_plain(value), "{value}");
        }
    }

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in Shell::value_variants() {
            let name = shell.to_possible_value().expect("a shell").get_name().to_owned();
            let mut script = Vec::new();
            let shells = Shells::builtins();
            let shell = shells.completer(&name).expect("known");
            shell
                .write_registration(VARIABLE, PROGRAM, PROGRAM, "/usr/bin/egress-tracer", &mut script)
                .expect("written");
            let script = String::from_utf8(script).expect("UTF-8");
            assert!(
                script.contains(VARIABLE) && script.contains("/usr/bin/egress-tracer"),
                "{name}: {script}"
            );
        }
    }
}
