//! The command line: its verbs, the arguments they share, and what an error looks like. One sentence, never a
//! backtrace; exit code 1 for trouble, 2 for wrong usage.

mod agent;
mod check;
mod manual;
mod observe;
mod output;
mod pods;
mod record;
mod scope;
mod source;
mod status;
mod top;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};

/// Shows the HTTP CONNECTs that an Istio sidecar answers itself instead of passing them to the forward proxy, says
/// why, and what to change.
#[derive(Parser)]
#[command(name = "egress-tracer", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Trace all pods of this node and serve metrics, until SIGTERM
    #[command(after_help = agent::EXAMPLES)]
    Agent(agent::Args),
    /// Show sessions as they happen
    #[command(after_help = observe::EXAMPLES)]
    Observe(Box<observe::Args>),
    /// Show what is going on, as a table that lives: by workload, proxy, host and verdict
    #[command(after_help = top::EXAMPLES)]
    Top(Box<top::Args>),
    /// Write what is seen to a file, secrets masked, to look at later or to send with a bug report
    #[command(after_help = record::EXAMPLES)]
    Record(record::Args),
    /// Print the reports of a recording
    #[command(after_help = record::REPLAY_EXAMPLES)]
    Replay(record::ReplayArgs),
    /// Explain from a sidecar's configuration what it does to a CONNECT, whose object makes it so, and what to apply
    #[command(after_help = crate::explain::EXAMPLES)]
    Explain(crate::explain::Args),
    /// Show whether an agent runs on this node, since when, what it has seen and lost
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// Show what this kernel offers, what is missing, and what to do about it
    #[command(after_help = check::EXAMPLES)]
    Check(check::Args),
    /// Print the completions of a shell
    #[command(after_help = manual::COMPLETIONS_EXAMPLES)]
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = manual::MAN_EXAMPLES)]
    Man(manual::ManArgs),
    /// Print the version
    Version,
}

/// Parses the command line, runs its verb, and says how it went.
pub fn main() -> ExitCode {
    let verb = match Cli::try_parse() {
        Ok(Cli { verb }) => verb,
        Err(error) => {
            // Help and version come this way, too; clap knows which stream and which code.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // A log would be written across the table.
    let level = if matches!(verb, Verb::Top(_)) { "off" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::default().filter_or("EGRESS_TRACER_LOG", level)).init();
    let result = match verb {
        Verb::Agent(args) => block_on(agent::run(args)),
        Verb::Observe(args) => block_on(observe::run(*args)),
        Verb::Record(args) => block_on(record::run(args)),
        Verb::Replay(args) => record::replay(&args),
        Verb::Explain(args) => pods::resolve(args).and_then(|args| crate::explain::run(&args)),
        Verb::Status(args) => block_on(status::run(args)),
        Verb::Top(args) => block_on(top::run(*args)),
        Verb::Completions(args) => manual::completions(&args, Cli::command()),
        Verb::Man(args) => manual::man(&args, Cli::command()),
        Verb::Check(args) => check::run(&args),
        Verb::Version => {
            println!("egress-tracer {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS; // whoever read our output has seen enough
        }
        eprintln!("egress-tracer: {error:#}");
        ExitCode::FAILURE
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// One thread does: it sleeps nearly always.
fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, verb)
}

/// A duration as people write it: `10s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "want a number and a unit, such as 10s, 500ms or 2m".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("10").is_err() && duration("-1s").is_err() && duration("soon").is_err());
    }
}
