//! `cargo xtask test`: every test, in the environment that the end-to-end tests need.

use anyhow::Result;

use crate::cargo;
use crate::check::passes;
use crate::image;
use crate::requirement::Purpose;
use crate::setup;
use crate::vm;

/// Sets up, builds, tests; the last lines are the test runner's own.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(Purpose::Test, false)?;
    let tracer = cargo::build_tracer(false)?;
    let image = image::build()?;
    // Before the others, not beside them: a guest takes a whole processor. What it found is said at the end, too.
    let guests = if arguments.is_empty() { vm::run_main() } else { Ok(()) };
    if let Err(error) = &guests {
        eprintln!("error: {error:#}");
    }
    // Without arguments: the doc tests first, so that the summary at the end is of the tests proper.
    let documented: &[&str] = &["--doc", "--quiet"];
    let proper: &[&str] = &["--lib", "--bins", "--tests", "--no-fail-fast"];
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runs = if given.is_empty() { vec![documented, proper] } else { vec![given.as_slice()] };
    for arguments in runs {
        let mut test = cargo::here();
        test.args(["test", "--workspace"])
            .args(arguments)
            .env("EGRESS_TRACER_BIN", &tracer)
            .env("EGRESS_TRACER_IMAGE", &image.archive);
        passes(&mut test, "the failures are above")?;
    }
    guests
}
