//! The kernel tests, as PID 1 of a guest that `cargo xtask vm` boots: loads each family of probes, has one connection made
//! by every call that sends, plays the cases, and prints a JSON line for each test. It judges; xtask only prints.

mod boot;
mod call;
mod closed;
mod cost;
mod families;
mod scopes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [_, "call", call, address] => call::run(call, address),
        [_, "answer", address] => call::answer(address),
        [_, "close", address] => closed::close(address),
        [_, "closed", address] => closed::ask(address),
        [_, "echo", address] => cost::echo(address),
        [_, "late", address, pipe] => call::late(address, pipe),
        _ if std::process::id() == 1 => {
            boot::up().and_then(|()| run()).unwrap_or_else(|error| families::say("boot", &Err(error)));
            boot::down()
        }
        _ => Err(anyhow::anyhow!("this runs in a guest: `cargo xtask vm`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the kernel's command line asks for: `guest.cost=SECONDS`, or tests.
fn run() -> anyhow::Result<()> {
    if let Some(seconds) = boot::asked("guest.cost=")? {
        return cost::measure(seconds.parse()?);
    }
    let tests = boot::asked("guest.tests=")?.unwrap_or_default();
    // A command line is words: `fentry c01` comes as `fentry_c01`.
    let tests = tests.split(',').filter(|test| !test.is_empty()).map(|test| test.replace('_', " "));
    families::run(&tests.collect::<Vec<_>>())
}
