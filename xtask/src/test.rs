//! `cargo xtask test`: every test, in the environment that the end-to-end tests need.

use anyhow::Result;

use crate::cargo;
use crate::check::passes;
use crate::requirement::Purpose;
use crate::setup;

/// Sets up, builds, tests; the last lines are the test runner's own.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run(Purpose::Test, false)?;
    let tracer = cargo::build_tracer(false)?;
    let mut test = cargo::here();
    test.args(["test", "--workspace"]).args(arguments).env("EGRESS_TRACER_BIN", tracer);
    passes(&mut test, "the failures are above")
}
