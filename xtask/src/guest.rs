//! One guest: a kernel of Debian's under an emulated processor, with an initramfs of ours, until it powers off. It collects
//! what the guest says, a JSON object on each line that has `GUEST` before it, and judges nothing.

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

/// How long an instruction takes by [`Clock::Instructions`], in ns.
pub(crate) const INSTRUCTION: f64 = 8.0;

/// What a guest's time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// This machine's: as fast as can be, on two processors.
    Real,
    /// A fixed time for each instruction of its one processor: whatever else this machine does, what is counted is the same.
    /// <https://www.qemu.org/docs/master/devel/tcg-icount.html>
    Instructions,
}

impl Clock {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Real => &["-accel", "tcg,thread=multi", "-smp", "2"],
            // 2^3 ns for each, see `INSTRUCTION`; time in which it would only wait is left out.
            Self::Instructions => {
                &["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=3,sleep=off"]
            }
        }
    }
}

/// What a guest says of one test.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its name.
    pub(crate) test: String,
    /// It passed.
    pub(crate) ok: bool,
    /// What it found.
    pub(crate) detail: Value,
}

impl Said {
    fn parse(line: &str) -> Option<Self> {
        let mut said: Value = serde_json::from_str(line.split_once("GUEST ")?.1.trim()).ok()?;
        let (test, ok) = (said["test"].as_str()?.to_owned(), said["ok"].as_bool()?);
        Some(Self { test, ok, detail: said["detail"].take() })
    }

    /// What it found, as people read it.
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

/// Boots it with further words on its kernel's command line, and returns when it has powered off, which it has to within
/// `patience`. Each thing that it says is shown to `each` as it comes. `work`: a directory for the archive.
pub(crate) fn boot(
    kernel: &Kernel,
    mut initramfs: Initramfs,
    work: &Path,
    words: &str,
    clock: Clock,
    patience: Duration,
    each: impl Fn(&Said) + Send + 'static,
) -> Result<Vec<Said>> {
    initramfs.add_modules(&kernel.modules)?;
    let archive = work.join(format!("{}.cpio", kernel.name));
    initramfs.write(&archive)?;
    drop(initramfs);
    let line = format!(
        "console=ttyS0 quiet panic=-1 loglevel=3 EGRESS_TRACER_BIN=/bin/egress-tracer XDG_CACHE_HOME=/cache \
         PATH=/usr/sbin:/usr/bin:/sbin:/bin {words}"
    );
    // Whatever ends us ends the guest.
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
        if let Some(said) = Said::parse(line) {
            each(&said);
        }
    });
    let stderr = Lines::of(guest.stderr.take().context("stderr is piped")?);
    let ended = stdout.wait_end(patience);
    let _ = guest.kill(); // it has ended, unless its time is over
    guest.wait()?;
    let lines = stdout.all();
    fs::remove_file(&archive)?;
    let tail = || lines[lines.len().saturating_sub(15)..].join("\n    ");
    ensure!(ended, "it did not answer within {patience:?}:\n    {}", tail());
    let said: Vec<Said> = lines.iter().filter_map(|line| Said::parse(line)).collect();
    if said.is_empty() {
        bail!("it ended before its first test:\n    {}{}", tail(), stderr.text());
    }
    Ok(said)
}
