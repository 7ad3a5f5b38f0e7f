//! `cargo xtask`: every task of a developer. This file parses the command line and dispatches.

mod bench;
mod cargo;
mod cargo_deny;
mod check;
mod containerd_package;
mod debian;
mod demo;
mod ebpf;
mod envoy_wheel;
mod fuzz;
mod guest;
mod helm_program;
mod image;
mod initramfs;
mod install;
mod interrupt;
mod kernel_package;
mod kernel_table;
mod mesh;
mod mesh_demo;
mod mesh_go;
mod mesh_programs;
mod progress;
mod prose;
mod requirement;
mod sbom;
mod schemas;
mod demo_session;
mod setup;
mod debian_suite;
mod test;
mod test_output;
#[path = "../../tracer/build/toolchain.rs"]
mod toolchain;
mod vm;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use requirement::Purpose;

/// Tasks for developers of egress-tracer.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing, and print what and why
    Setup {
        /// Task to prepare for
        #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// Show a CONNECT that Envoy handles as HTTP, the fix, and what the tracer reports of each
    Demo {
        /// Write only the reports to stdout, as JSON lines
        #[arg(long)]
        json: bool,
        /// With a real istiod, configured through a real Kubernetes API
        #[arg(long)]
        istio: bool,
    },
    /// Install what is missing, then run every test
    Test(test::Selection),
    /// Run all checks and all tests, as continuous integration does
    Ci(test::Selection),
    /// Boot guests with other kernels and run the kernel tests in them
    Vm {
        /// Kernels, such as 6.1 [default: all]
        kernels: Vec<String>,
        /// How many processors each guest has; more of them share the host's
        #[arg(long, value_name = "NUMBER", default_value_t = vm::PROCESSORS)]
        processors: u8,
        /// Run only tests whose names contain one of these
        #[arg(last = true)]
        tests: Vec<String>,
    },
    /// Leave a real Istio on a real Kubernetes API up, with an app and a proxy, until Ctrl-C
    Mesh,
    /// Build the container image, and print its digest
    Image,
    /// Measure the tracer's cost, next to that of tcpdump, tshark, bpftrace and libbpf-tools
    Bench {
        /// Run briefly to test the benchmark; the numbers mean nothing
        #[arg(long)]
        quick: bool,
        /// Parts to measure [default: all]
        #[arg(value_enum)]
        parts: Vec<bench::BenchPart>,
    },
    /// Run the fuzz targets with the address sanitizer, from seeds of the tests' recordings
    Fuzz {
        /// A target by its name [default: each]
        target: Option<String>,
        /// How long each target runs
        #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = fuzz::duration)]
        time: std::time::Duration,
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
        interrupt::wait_if_interrupted();
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup { purpose } => setup::run(purpose, true),
        Task::Demo { json, istio: true } => mesh_demo::run(json),
        Task::Demo { json, istio: false } => demo::run(json),
        Task::Vm { kernels, processors, tests } => vm::run(&kernels, processors, &tests),
        Task::Mesh => mesh::run(),
        Task::Image => image::run(),
        Task::Bench { quick, parts } => bench::run(quick, &parts),
        Task::Fuzz { target, time } => fuzz::run(target.as_deref(), time),
        Task::Check { prose: true } => prose::check(),
        Task::Check { prose: false } => check::run(),
        Task::Test(_) | Task::Ci(_) => unreachable!("they have an exit code of their own"),
    }
}
