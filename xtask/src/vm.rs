//! `cargo xtask vm`: boots a guest per kernel, two side by side, and prints what the tests in it say. A guest that does
//! not answer within its time has failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{ENVOY_VERSION, Lines, cached_envoy};
use serde_json::Value;

use crate::cargo;
use crate::initramfs::Initramfs;
use crate::kernel_package::{self, KERNELS, Kernel};
use crate::kernel_table;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;

/// How long a guest may take: it emulates its processor, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_mins(20);
/// How many guests run at once, and how many processors each has.
const SIDE_BY_SIDE: usize = 2;
/// Without cmpxchg16b: after it, QEMU 7.2 leaves garbage in the flags, and an interrupt there ends the kernel or a program
/// (7 of 25 boots of 6.12 that ran for seconds; none of 25 without, where the kernel's allocator does otherwise).
const CPU: &str = "max,-cx16";
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

/// What `cargo xtask test` runs, in every kernel: each family's calls, that all families say the same of them, what a kernel
/// refuses, and the instructions of each program, which are always counted. The scopes, the connections that are older than the
/// probes and the cases with a real Envoy are left to `cargo xtask vm`: they emulate Envoy, and take four times as long.
const MAIN: &[&str] = &["calls", "agree", "refused"];

/// What the guests saw, and what of it is wrong.
fn guests(kernels: &[String], tests: &[String]) -> Result<(Vec<Seen>, Vec<String>)> {
    setup::run(Purpose::Vm, false)?;
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
    let tracer = cargo::build_tracer(false)?;
    let (init, client) = cargo::build_guest()?;
    let work = tempfile::tempdir()?;
    let initramfs = || Initramfs::new(&init, &tracer, &client, &cached_envoy(ENVOY_VERSION));
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
    let (seen, failed) = guests(kernels, tests)?;
    if kernels.is_empty() {
        kernel_table::write(&seen, tests)?;
    }
    said(&failed)
}

/// [`MAIN`] in all kernels.
pub(crate) fn run_main() -> Result<()> {
    let tests: Vec<String> = MAIN.iter().map(ToString::to_string).collect();
    said(&guests(&[], &tests)?.1)
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

fn boot(kernel: &Kernel, mut initramfs: Initramfs, work: &Path, tests: &[String]) -> Result<Seen> {
    initramfs.add_modules(&kernel.modules)?;
    let archive: PathBuf = work.join(format!("{}.cpio", kernel.name));
    initramfs.write(&archive)?;
    drop(initramfs);
    let mut line =
        "console=ttyS0 quiet panic=-1 loglevel=3 EGRESS_TRACER_BIN=/bin/egress-tracer XDG_CACHE_HOME=/cache \
                    PATH=/usr/sbin:/usr/bin:/sbin:/bin"
            .to_owned();
    if !tests.is_empty() {
        line.push_str(" guest.tests=");
        line.push_str(&tests.join(","));
    }
    let start = Instant::now();
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let name = kernel.name;
    let stdout = Lines::each(guest.stdout.take().context("stdout is piped")?, move |line| {
        if let Some((test, ok, said)) = parse(line).filter(|(test, ..)| test != "check") {
            let mark = if ok { "ok    " } else { "FAILED" };
            println!("{name:<5} {test:<18} {mark} {said} ({:.0} s)", start.elapsed().as_secs_f32());
        }
    });
    let stderr = Lines::of(guest.stderr.take().context("stderr is piped")?);
    let ended = stdout.wait_end(PATIENCE);
    let _ = guest.kill(); // it has ended, unless its time is over
    guest.wait()?;
    let lines = stdout.all();
    fs::remove_file(&archive)?;
    let tail = || lines[lines.len().saturating_sub(15)..].join("\n    ");
    ensure!(ended, "it did not answer within {PATIENCE:?}:\n    {}", tail());
    let mut tests = Vec::new();
    let mut check = None;
    for line in &lines {
        match (parse(line), line.split_once("GUEST ")) {
            (Some((test, true, _)), Some((_, json))) if test == "check" => {
                check = Some(serde_json::from_str::<Value>(json.trim())?["detail"].take());
            }
            (Some(test), _) => tests.push(test),
            _ => {}
        }
    }
    let Some(check) = check else {
        bail!("it ended before its first test:\n    {}{}", tail(), stderr.text())
    };
    Ok(Seen { kernel: kernel.name, check, tests })
}

fn parse(line: &str) -> Option<(String, bool, String)> {
    let said: Value = serde_json::from_str(line.split_once("GUEST ")?.1.trim()).ok()?;
    let detail = match &said["detail"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    };
    Some((said["test"].as_str()?.to_owned(), said["ok"].as_bool()?, detail))
}
