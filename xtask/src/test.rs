//! `cargo xtask test` and `cargo xtask ci`: builds everything once, runs the guests beside the steps that only compile, and then
//! runs the tests alone, because many of them have deadlines.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};

use crate::cargo::{self, TestPrograms};
use crate::check;
use crate::image::{self, Image};
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;
use crate::test_output;
use crate::vm;

/// The module in which all tests of the real mesh are.
const MESH_TESTS: &str = "real_mesh::";

/// What to test.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Leave out a part; can be repeated
    #[arg(long, value_enum, value_name = "PART")]
    without: Vec<TestPart>,
    /// Arguments for `cargo test`; with any, only `cargo test` runs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// A part of the tests that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TestPart {
    /// Guests with other kernels
    Guests,
    /// Examples in the documentation
    Examples,
    /// The real Istio and what compiles it
    Mesh,
}

impl Selection {
    /// Whether a part runs.
    fn has(&self, part: TestPart) -> bool {
        self.arguments.is_empty() && !self.without.contains(&part)
    }

    /// Whether the tests of the real mesh run: they are tests like others, so arguments do not leave them out.
    fn has_mesh(&self) -> bool {
        !self.without.contains(&TestPart::Mesh)
    }

    /// A line that names what was left out. None: nothing was.
    fn left_out(&self) -> Option<String> {
        let names: Vec<String> = self
            .without
            .iter()
            .filter_map(|part| Some(part.to_possible_value()?.get_name().to_owned()))
            .collect();
        (!names.is_empty()).then(|| format!("Left out: {}", names.join(", ")))
    }
}

/// Runs the tests, after the checks where `check` is set. The last lines are the test runner's own.
pub(crate) fn run(selection: &Selection, check: bool) -> Result<ExitCode> {
    let mut purposes = vec![Purpose::Test];
    purposes.extend(check.then_some(Purpose::Check));
    purposes.extend(selection.has_mesh().then_some(Purpose::Mesh));
    let (_, programs) = setup::run_beside(&purposes, cargo::build_tests)?;
    let mut failed = Vec::new();
    let image = before_tests(selection, check, &programs, &mut failed)?;
    let mut examples = cargo::here();
    examples.args(["test", "--workspace", "--doc", "--quiet"]);
    if selection.has(TestPart::Examples) {
        failed.extend(check::passes(&mut examples, "the failures are above").err());
    }
    let mut command = test_output::timed(cargo::here());
    if selection.arguments.is_empty() {
        command.args(["--lib", "--bins", "--tests", "--no-fail-fast"]);
    } else {
        command.args(&selection.arguments);
    }
    command.env("EGRESS_TRACER_BIN", &programs.tracer).env("EGRESS_TRACER_IMAGE", &image.archive);
    if !selection.arguments.iter().any(|argument| argument == "--") {
        command.arg("--");
    }
    if !selection.has_mesh() {
        command.args(["--skip", MESH_TESTS]);
    }
    command.args(test_output::REPORT_TIME);
    let start = Instant::now();
    let output = test_output::run(command)?;
    progress::record("Tests", start.elapsed());
    output.summarize(&failed, selection.left_out().as_deref());
    Ok(if failed.is_empty() && output.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the image and runs the checks, with the guests beside them. Adds what failed; no image is an error.
fn before_tests(
    selection: &Selection,
    check: bool,
    programs: &TestPrograms,
    failed: &mut Vec<anyhow::Error>,
) -> Result<Image> {
    thread::scope(|scope| {
        let guests = selection.has(TestPart::Guests).then(|| scope.spawn(|| vm::run_main(programs)));
        let checked = if check { check::run() } else { Ok(()) };
        let image = image::build(image::FOR_TESTS);
        let booted =
            guests.map(|guests| guests.join().unwrap_or_else(|_| Err(anyhow!("the guests panicked"))));
        for error in [checked.err(), booted.and_then(Result::err)].into_iter().flatten() {
            eprintln!("error: {error:#}");
            failed.push(error);
        }
        image
    })
}
