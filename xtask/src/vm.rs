//! `cargo xtask vm`: boots a guest per kernel, two side by side, and prints what the tests in it say. A guest that does
//! not answer within its time has failed.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::{ENVOY_VERSION, cached_envoy};
use serde_json::Value;

use crate::cargo::{self, GuestPrograms, TestPrograms};
use crate::guest::{self, Clock, Said};
use crate::initramfs::Initramfs;
use crate::kernel_package::{self, KERNELS, Kernel};
use crate::kernel_table;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

/// How long a guest may take: it emulates its processor, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_mins(20);
/// How many guests run at once.
const SIDE_BY_SIDE: usize = 2;
/// How many instructions the verifier may look at in one program.
const INSTRUCTIONS: u64 = 20_000;

/// What a guest said.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The kernel.
    pub(crate) kernel: &'static str,
    /// What `egress-tracer check` said in it.
    pub(crate) check: Value,
    /// Its tests: name, whether it passed, what it said.
    pub(crate) tests: Vec<(String, bool, String)>,
}

/// What `cargo xtask test` runs, in every kernel: each family's calls, a sidecar that closes at once, that all families say
/// the same of the calls, what a kernel refuses, and the instructions of each program, which are always counted. The scopes, the connections that are older than the
/// probes and the cases with a real Envoy are left to `cargo xtask vm`: they emulate Envoy, and take four times as long.
const MAIN: &[&str] = &["send-calls", "early-close", "agree", "refused", "without BTF"];

/// What the guests saw, and what of it is wrong.
fn guests(
    kernels: &[String],
    tests: &[String],
    tracer: &Path,
    programs: &GuestPrograms,
) -> Result<(Vec<Seen>, Vec<String>)> {
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
    // Envoy is most of an archive, and unpacking it most of a boot.
    let needs_envoy = tests.is_empty() || tests.iter().any(|test| !MAIN.contains(&test.as_str()));
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
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(kernel) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let seen = initramfs().and_then(|initramfs| boot(&kernel, initramfs, work.path(), tests));
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
                failed.extend(judge(&seen));
                all.push(seen);
            }
            Err(error) => failed.push(format!("{kernel}: {error:#}")),
        }
    }
    all.sort_by_key(|seen| KERNELS.iter().position(|(name, ..)| *name == seen.kernel));
    Ok((all, failed))
}

/// Boots the kernels of these names, or all; `tests` are parts of test names. A run in all kernels writes the table.
pub(crate) fn run(kernels: &[String], tests: &[String]) -> Result<()> {
    setup::run(Purpose::Vm, false)?;
    let (tracer, programs) = (cargo::build_tracer(false)?, cargo::build_guest()?);
    let (seen, failed) = guests(kernels, tests, &tracer, &programs)?;
    if kernels.is_empty() {
        kernel_table::write(&seen, tests)?;
    }
    said(&failed)
}

/// Runs [`MAIN`] in all kernels.
pub(crate) fn run_main(programs: &TestPrograms) -> Result<()> {
    let tests: Vec<String> = MAIN.iter().map(ToString::to_string).collect();
    let start = Instant::now();
    let (_, failed) = guests(&[], &tests, &programs.tracer, &programs.guest)?;
    progress::record("Guests", start.elapsed());
    said(&failed)
}

fn said(failed: &[String]) -> Result<()> {
    ensure!(failed.is_empty(), "{} failed:\n  {}", failed.len(), failed.join("\n  "));
    Ok(())
}

/// What is wrong with it; the instructions are printed for every program.
fn judge(seen: &Seen) -> Vec<String> {
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
        if count > INSTRUCTIONS {
            wrong.push(format!("{} {program}: {count} instructions, more than {INSTRUCTIONS}", seen.kernel));
        }
    }
    wrong
}

fn boot(kernel: &Kernel, initramfs: Initramfs, work: &Path, tests: &[String]) -> Result<Seen> {
    let words = if tests.is_empty() {
        String::new()
    } else {
        format!("guest.tests={}", tests.join(",").replace(' ', "_"))
    };
    let (name, start) = (kernel.name, Instant::now());
    let show = move |said: &Said| {
        if said.test != "check" {
            let mark = if said.ok { "ok    " } else { "FAILED" };
            let (test, text, seconds) = (&said.test, said.text(), start.elapsed().as_secs_f32());
            println!("{name:<5} {test:<18} {mark} {text} ({seconds:.0} s)");
        }
    };
    let mut said = guest::boot(kernel, initramfs, work, &words, Clock::Real, PATIENCE, show)?;
    let check = said.iter().position(|said| said.test == "check" && said.ok);
    let Some(check) = check.map(|at| said.remove(at).detail) else {
        bail!("it ended before its first test: {said:?}")
    };
    let tests = said.into_iter().map(|said| (said.test.clone(), said.ok, said.text())).collect();
    Ok(Seen { kernel: kernel.name, check, tests })
}
