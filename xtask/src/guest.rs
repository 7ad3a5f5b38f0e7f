//! Runs one guest: a Debian kernel on an emulated processor with our initramfs, until it powers off. Collects the results that
//! the guest prints, one JSON object on each line that begins with `GUEST`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::Lines;
use serde_json::Value;

use crate::initramfs::Initramfs;
use crate::kernel_package::Kernel;

/// Without cmpxchg16b: after it, QEMU 7.2 leaves garbage in the flags, and an interrupt there ends the kernel or a program
/// (7 of 25 boots of 6.12 that ran for seconds; none of 25 without, where the kernel's allocator does otherwise).
const CPU: &str = "max,-cx16";

/// Duration of an instruction under [`Clock::Instructions`], in ns.
pub(crate) const INSTRUCTION: f64 = 8.0;

/// What drives a guest's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's clock.
    Real {
        /// How many processors the guest has.
        processors: u8,
    },
    /// A fixed time for each instruction of one processor: counts do not depend on the host's load.
    /// <https://www.qemu.org/docs/master/devel/tcg-icount.html>
    Instructions,
}

impl Clock {
    fn arguments(self) -> Vec<String> {
        match self {
            Self::Real { processors } => {
                ["-accel", "tcg,thread=multi", "-smp", &processors.to_string()].map(str::to_owned).to_vec()
            }
            // 2^3 ns each, see `INSTRUCTION`; idle time is skipped.
            Self::Instructions => {
                ["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=3,sleep=off"]
                    .map(str::to_owned)
                    .to_vec()
            }
        }
    }
}

/// The result of one test in a guest.
#[derive(Debug)]
pub(crate) struct TestResult {
    /// Name of the test.
    pub(crate) test: String,
    /// Whether it passed.
    pub(crate) ok: bool,
    /// What the test printed.
    pub(crate) detail: Value,
}

impl TestResult {
    fn parse(line: &str) -> Option<Self> {
        let mut said: Value = serde_json::from_str(line.split_once("GUEST ")?.1.trim()).ok()?;
        let (test, ok) = (said["test"].as_str()?.to_owned(), said["ok"].as_bool()?);
        Some(Self { test, ok, detail: said["detail"].take() })
    }

    /// The detail as plain text.
    pub(crate) fn text(&self) -> String {
        match &self.detail {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                other.to_string()
            }
        }
    }
}

/// Boots a guest with `words` on its kernel's command line, and returns its results when it has powered off. Fails after
/// `timeout`. Calls `each` with every result as it arrives. `work` is a directory for the archive.
pub(crate) fn boot(
    kernel: &Kernel,
    mut initramfs: Initramfs,
    work: &Path,
    words: &str,
    clock: Clock,
    timeout: Duration,
    each: impl Fn(&TestResult) + Send + 'static,
) -> Result<Vec<TestResult>> {
    initramfs.add_modules(&kernel.modules)?;
    let archive = work.join(format!("{}.cpio", kernel.name));
    initramfs.write(&archive)?;
    drop(initramfs);
    let line = format!(
        "console=ttyS0 quiet panic=-1 loglevel=3 EGRESS_TRACER_BIN=/bin/egress-tracer XDG_CACHE_HOME=/cache \
         PATH=/usr/sbin:/usr/bin:/sbin:/bin {words}"
    );
    // The guest ends with this process, however that ends.
    let mut guest = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(clock.arguments())
        .args(["-cpu", CPU, "-m", "2048"])
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
    let stdout = Lines::each(guest.stdout.take().context("stdout is piped")?, move |line| {
        if let Some(said) = TestResult::parse(line) {
            each(&said);
        }
    });
    let stderr = Lines::of(guest.stderr.take().context("stderr is piped")?);
    let ended = stdout.wait_end(timeout);
    let _ = guest.kill(); // it has ended already, unless it timed out
    guest.wait()?;
    let lines = stdout.all();
    fs::remove_file(&archive)?;
    let tail = || lines[lines.len().saturating_sub(15)..].join("\n    ");
    ensure!(ended, "it did not answer within {timeout:?}:\n    {}", tail());
    let said: Vec<TestResult> = lines.iter().filter_map(|line| TestResult::parse(line)).collect();
    if said.is_empty() {
        bail!("it ended before its first test:\n    {}{}", tail(), stderr.text());
    }
    Ok(said)
}
