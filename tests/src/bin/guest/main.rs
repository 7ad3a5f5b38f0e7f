//! The kernel tests, as PID 1 of a guest that `cargo xtask vm` boots: load each hook family, send a CONNECT by every
//! call, play the cases, and print a JSON line for each test.

mod boot;
mod call;
mod closed;
mod cost;
mod exec;
mod families;
mod scopes;
mod stress;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [_, "call", call, address] => call::run(call, address),
        [_, "answer", address] => call::answer(address),
        [_, "close", address] => closed::close_accepted(address),
        [_, "closed", address] => closed::send_after_close(address),
        [_, "echo", address] => cost::echo(address),
        [_, "exec", how, address] => exec::run(how, address),
        [_, "send"] => exec::send(),
        [_, "relay", address, proxy] => stress::relay(address, proxy),
        [_, "stress", proxy] => stress::open_sessions(proxy),
        [_, "late", address, pipe] => call::send_late(address, pipe),
        _ if std::process::id() == 1 => {
            boot::up()
                .and_then(|()| run())
                .unwrap_or_else(|error| families::print_result("boot", &Err(error)));
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

/// Does what the kernel's command line says: `guest.cost=SECONDS`, or tests.
fn run() -> anyhow::Result<()> {
    if let Some(seconds) = boot::kernel_argument("guest.cost=")? {
        return cost::measure(seconds.parse()?);
    }
    let tests = boot::kernel_argument("guest.tests=")?.unwrap_or_default();
    // A word of the command line has no spaces: `fentry c01` is written `fentry_c01`.
    let tests = tests.split(',').filter(|test| !test.is_empty()).map(|test| test.replace('_', " "));
    families::run(&tests.collect::<Vec<_>>())
}
