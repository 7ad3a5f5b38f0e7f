//! The `egress-tracer` binary: hands its arguments to the library.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "egress-tracer", version)]
enum Command {
    /// Explain what a sidecar's configuration does to connections to a proxy
    Explain(tracer::explain::Args),
}

fn main() -> ExitCode {
    let Command::Explain(args) = Command::parse();
    tracer::explain::run(&args).unwrap_or_else(|error| {
        eprintln!("egress-tracer: {error:#}");
        ExitCode::FAILURE
    })
}
