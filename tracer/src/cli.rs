//! The command line: its commands, the arguments they share, and how an error looks: one sentence, never a backtrace.
//! Exit code 1 is a failure, 2 wrong usage.

mod agent;
mod audit;
mod check;
mod completions;
mod logging;
mod manual;
mod observe;
mod output;
mod pods;
mod probe;
mod record;
mod replay;
mod scope;
mod source;
mod status;
mod summary;
mod top;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};

/// Shows the HTTP CONNECTs that an Istio sidecar answers itself instead of passing them to the forward proxy, says
/// why, and what to change.
#[derive(Parser)]
#[command(name = "egress-tracer", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: logging::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Trace all pods of this node and serve metrics, until SIGTERM
    #[command(after_help = agent::EXAMPLES)]
    Agent(agent::Args),
    /// Show sessions as they happen
    #[command(after_help = observe::EXAMPLES)]
    Observe(Box<observe::Args>),
    /// Live table of sessions by workload, proxy, host and verdict
    #[command(after_help = top::EXAMPLES)]
    Top(Box<top::Args>),
    /// Record what the probes see to a file or a pipe, secrets masked, for later or for a bug report
    #[command(after_help = record::EXAMPLES)]
    Record(record::Args),
    /// Print the reports of a recording, or reports that were printed as JSON
    #[command(after_help = replay::EXAMPLES)]
    Replay(Box<replay::Args>),
    /// Explain from a sidecar's configuration what becomes of a CONNECT, whose object decides it, and what to apply
    #[command(after_help = crate::explain::EXAMPLES)]
    Explain(Box<crate::explain::Args>),
    /// Send one CONNECT from an app's pod, and show what came of it beside what the configuration predicts
    #[command(after_help = probe::EXAMPLES)]
    Probe(Box<probe::Args>),
    /// Say for every sidecar and every proxy of its apps what would become of a CONNECT, before one fails
    #[command(after_help = audit::EXAMPLES)]
    Audit(Box<audit::Args>),
    /// Show whether an agent runs on this node, since when, and what it has seen and lost
    #[command(after_help = status::EXAMPLES)]
    Status(status::Args),
    /// Show what this kernel offers, what is missing, and what to do about it
    #[command(after_help = check::EXAMPLES)]
    Check(check::Args),
    /// Print the completions of a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Args),
    /// Print the manual page, or write those of all commands
    #[command(after_help = manual::MAN_EXAMPLES)]
    Man(manual::ManArgs),
    /// Print the version
    Version,
}

/// Parses the command line, runs the command, and returns the exit code.
pub fn main() -> ExitCode {
    // Ends the process where a shell asks for completions.
    completions::answer_shell();
    let Cli { command, logging } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here as well; clap knows which stream and which code.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // A log line would be written across the table.
    let level = if matches!(command, Command::Top(_)) { "off" } else { "warn" };
    logging.start(level);
    let result = match command {
        Command::Agent(args) => block_on(agent::run(args)),
        Command::Observe(args) => block_on(observe::run(*args)),
        Command::Record(args) => block_on(record::run(args)),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => {
            pods::resolve(*args, scope::cgroup2_root).and_then(|args| crate::explain::run(&args))
        }
        Command::Probe(args) => probe::run(*args),
        Command::Audit(args) => block_on(audit::run(*args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Top(args) => block_on(top::run(*args)),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => manual::man(&args, Cli::command()),
        Command::Check(args) => check::run(&args),
        Command::Version => {
            println!("egress-tracer {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS; // the reader of our output closed it
        }
        logging.print_error(&error);
        ExitCode::FAILURE
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let error = cause.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Runs a command on one thread: it sleeps nearly all the time.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, command)
}

/// Parses a duration such as `10s`, `500ms` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a number and a unit, such as 10s, 500ms or 2m".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_parsed_with_their_units() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("10").is_err() && duration("-1s").is_err() && duration("soon").is_err());
    }
}
