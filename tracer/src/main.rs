//! The `egress-tracer` binary: hands its arguments to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracer::cli::main()
}
