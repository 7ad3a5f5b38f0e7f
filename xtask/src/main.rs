//! `cargo xtask`: the single door for developers. It reads the command line and hands over.

mod bench;
mod cargo;
mod cargo_deny;
mod check;
mod containerd_package;
mod debian;
mod demo;
mod ebpf;
mod envoy_wheel;
mod guest;
mod image;
mod initramfs;
mod interrupt;
mod kernel_package;
mod kernel_table;
mod progress;
mod prose;
mod requirement;
mod sbom;
mod schemas;
mod scene;
mod setup;
mod suite;
mod test;
mod test_output;
#[path = "../../tracer/build/toolchain.rs"]
mod toolchain;
mod vm;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use requirement::Purpose;

/// Developer's door to egress-tracer.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing, saying what and why
    Setup {
        /// What for
        #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// Show the gotcha, live: a CONNECT that Envoy handles as HTTP, the fix, and what the tracer says of each
    Demo {
        /// Write the reports as JSON lines to stdout, and nothing else there
        #[arg(long)]
        json: bool,
    },
    /// Set up what is missing, then run every test
    Test(test::Selection),
    /// Run all checks and all tests, as continuous integration does
    Ci(test::Selection),
    /// Boot guests with other kernels and run the kernel tests in them
    Vm {
        /// Kernels, such as 6.1; none: all
        kernels: Vec<String>,
        /// Parts of the names of the tests to run
        #[arg(last = true)]
        tests: Vec<String>,
    },
    /// Build the container image, and say its digest
    Image,
    /// Measure what the tracer costs, beside what one would use instead
    Bench {
        /// A short run: whether it runs, not what it costs
        #[arg(long)]
        quick: bool,
        /// Only these parts
        #[arg(value_enum)]
        parts: Vec<bench::Part>,
    },
    /// Check format, lints, prose, dependencies and documentation
    Check {
        /// Only the words and spellings that docs/style.md forbids
        #[arg(long)]
        prose: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Test(selection) => test::run(&selection, false),
        Task::Ci(selection) => test::run(&selection, true),
        other => run(other).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        interrupt::give_way();
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup { purpose } => setup::run(purpose, true),
        Task::Demo { json } => demo::run(json),
        Task::Vm { kernels, tests } => vm::run(&kernels, &tests),
        Task::Image => image::run(),
        Task::Bench { quick, parts } => bench::run(quick, &parts),
        Task::Check { prose: true } => prose::check(),
        Task::Check { prose: false } => check::run(),
        Task::Test(_) | Task::Ci(_) => unreachable!("they have an exit code of their own"),
    }
}
