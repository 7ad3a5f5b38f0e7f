//! `cargo xtask vm`: boots a guest per kernel, two at a time, and prints the results of its tests. A guest that times out has
//! failed.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::{ENVOY_VERSION, cached_envoy};

use crate::cargo::{self, GuestPrograms, TestPrograms};
use crate::guest::{self, Clock, TestResult};
use crate::initramfs::Initramfs;
use crate::kernel_package::{self, KERNELS, Kernel};
use crate::kernel_table::{self, GuestRun};
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

/// Timeout of a guest. Its processor is emulated, and the host may be busy.
const TIMEOUT: Duration = Duration::from_mins(20);
/// Number of guests that run at the same time.
const PARALLEL: usize = 2;
/// Number of processors of a guest.
pub(crate) const PROCESSORS: u8 = 2;
/// Limit for the verified instructions of a program.
const INSTRUCTION_LIMIT: u64 = 20_000;

/// The tests that `cargo xtask test` runs in every kernel. The verified instructions are always counted. Scopes, connections
/// older than the probes, many sessions at once, and cases with a real Envoy run only with `cargo xtask vm`: the guest would emulate Envoy.
const MAIN_TESTS: &[&str] = &["send-calls", "early-close", "exec", "agree", "refused", "without BTF"];

/// Boots the guests, and returns their results and what failed.
fn guests(
    kernels: &[String],
    processors: u8,
    tests: &[String],
    tracer: &Path,
    programs: &GuestPrograms,
) -> Result<(Vec<GuestRun>, Vec<String>)> {
    let mut wanted = Vec::new();
    for (name, suite, _) in KERNELS {
        if kernels.is_empty() || kernels.iter().any(|kernel| kernel == name) {
            let kernel =
                progress::step(&format!("Getting Linux {name}"), |bar| kernel_package::get(bar, name, suite));
            wanted.push(kernel?);
        }
    }
    ensure!(
        !wanted.is_empty(),
        "no such kernel: there are {}",
        KERNELS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
    );
    let work = tempfile::tempdir()?;
    // Envoy is most of the archive, and unpacking it most of the boot.
    let needs_envoy = tests.is_empty() || tests.iter().any(|test| !MAIN_TESTS.contains(&test.as_str()));
    let initramfs = || -> Result<Initramfs> {
        let mut initramfs = Initramfs::new(&programs.init, tracer, &programs.client)?;
        if needs_envoy {
            let to = format!("/cache/egress-tracer/envoy/{ENVOY_VERSION}/envoy");
            initramfs.program(&cached_envoy(ENVOY_VERSION), Path::new(&to))?;
        }
        Ok(initramfs)
    };
    let queue = Mutex::new(wanted.into_iter());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(kernel) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let seen = initramfs()
                        .and_then(|initramfs| boot(&kernel, initramfs, work.path(), processors, tests));
                    if let Ok(mut results) = results.lock() {
                        results.push((kernel.name, seen));
                    }
                }
            });
        }
    });
    let mut failed = Vec::new();
    let mut all = Vec::new();
    for (kernel, seen) in results.into_inner().unwrap_or_default() {
        match seen {
            Ok(seen) => {
                failed.extend(failures(&seen));
                all.push(seen);
            }
            Err(error) => failed.push(format!("{kernel}: {error:#}")),
        }
    }
    all.sort_by_key(|seen| KERNELS.iter().position(|(name, ..)| *name == seen.kernel));
    Ok((all, failed))
}

/// Boots these kernels, or all, and runs the tests whose names contain one of `tests`. A run of everything writes
/// docs/kernels.md.
pub(crate) fn run(kernels: &[String], processors: u8, tests: &[String]) -> Result<()> {
    setup::run(Purpose::Vm, false)?;
    let (tracer, programs) = (cargo::build_tracer(false)?, cargo::build_guest()?);
    let (seen, failed) = guests(kernels, processors, tests, &tracer, &programs)?;
    if kernels.is_empty() && tests.is_empty() {
        kernel_table::write(&seen)?;
    }
    ensure_passed(&failed)
}

/// Runs [`MAIN_TESTS`] in all kernels.
pub(crate) fn run_main(programs: &TestPrograms) -> Result<()> {
    let tests: Vec<String> = MAIN_TESTS.iter().map(ToString::to_string).collect();
    let start = Instant::now();
    let (_, failed) = guests(&[], PROCESSORS, &tests, &programs.tracer, &programs.guest)?;
    progress::record("Guests", start.elapsed());
    ensure_passed(&failed)
}

fn ensure_passed(failed: &[String]) -> Result<()> {
    ensure!(failed.is_empty(), "{} failed:\n  {}", failed.len(), failed.join("\n  "));
    Ok(())
}

/// What failed in a guest. Prints the verified instructions of every program.
fn failures(seen: &GuestRun) -> Vec<String> {
    let mut wrong: Vec<String> = seen
        .tests
        .iter()
        .filter(|(_, ok, _)| !ok)
        .map(|(test, _, said)| format!("{} {test}: {said}", seen.kernel))
        .collect();
    let families =
        KERNELS.iter().find(|(name, ..)| *name == seen.kernel).map_or(&[][..], |(.., families)| *families);
    for family in families {
        if let Some(reason) = kernel_table::refusal(&seen.check, family) {
            wrong.push(format!("{} does not take {family}: {reason}", seen.kernel));
        }
    }
    for (program, count) in kernel_table::instructions(&seen.check) {
        println!("{:<5} {program:<28} {count:>6} instructions verified", seen.kernel);
        if count > INSTRUCTION_LIMIT {
            wrong.push(format!(
                "{} {program}: {count} instructions, more than {INSTRUCTION_LIMIT}",
                seen.kernel
            ));
        }
    }
    wrong
}

fn boot(
    kernel: &Kernel,
    initramfs: Initramfs,
    work: &Path,
    processors: u8,
    tests: &[String],
) -> Result<GuestRun> {
    let words = if tests.is_empty() {
        String::new()
    } else {
        format!("guest.tests={}", tests.join(",").replace(' ', "_"))
    };
    let (name, start) = (kernel.name, Instant::now());
    let show = move |said: &TestResult| {
        if said.test != "check" {
            let mark = if said.ok { "ok    " } else { "FAILED" };
            let (test, text, seconds) = (&said.test, said.text(), start.elapsed().as_secs_f32());
            println!("{name:<5} {test:<18} {mark} {text} ({seconds:.0} s)");
        }
    };
    let mut said = guest::boot(kernel, initramfs, work, &words, Clock::Real { processors }, TIMEOUT, show)?;
    let check = said.iter().position(|said| said.test == "check" && said.ok);
    let Some(check) = check.map(|at| said.remove(at).detail) else {
        bail!("it ended before its first test: {said:?}")
    };
    let tests = said.into_iter().map(|said| (said.test.clone(), said.ok, said.text())).collect();
    Ok(GuestRun { kernel: kernel.name, check, tests })
}
