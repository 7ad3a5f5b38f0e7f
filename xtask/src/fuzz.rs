//! `cargo xtask fuzz`: runs the fuzz targets with `AddressSanitizer`, from seeds made from the tests' recordings.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use crate::cargo;
use crate::check::passes;
use crate::install::Job;
use crate::progress;
use crate::requirement::Purpose;
use crate::setup;
use crate::toolchain::cache;

const VERSION: &str = "0.13.2";

/// What a target may take for one input: what the agent must not exceed either.
const SECONDS_PER_INPUT: &str = "1";
const ALLOCATION_MB: &str = "256";
/// `AddressSanitizer` and the corpus take memory that the agent does not.
const RESIDENT_MB: &str = "2048";

/// Whether this version of cargo-fuzz is in the cache.
pub(crate) fn is_there() -> bool {
    root().join("bin/cargo-fuzz").exists()
}

/// Builds cargo-fuzz into the cache.
#[expect(clippy::unnecessary_wraps, reason = "an entry of the table of requirements")]
pub(crate) fn prepare(_: &ProgressBar) -> Result<Job> {
    Ok(Box::new(|bar| {
        progress::command(bar, &mut cargo::install_tool("cargo-fuzz", VERSION, &root()))?;
        ensure!(is_there(), "cargo install wrote no cargo-fuzz below {}", root().display());
        Ok(format!("cargo-fuzz {VERSION}, in {}", root().display()))
    }))
}

fn root() -> PathBuf {
    cache().join("cargo-fuzz").join(VERSION)
}

/// Runs one target, or each, for this long. The first input that crashes, takes too long or too much memory ends it.
pub(crate) fn run(target: Option<&str>, time: Duration) -> Result<()> {
    setup::run(Purpose::Fuzz, false)?;
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no fuzz target {}; there are {}", target.unwrap_or_default(), all.join(", "));
    }
    let manifest = cargo::workspace().join("fuzz/Cargo.toml");
    let mut seeds = cargo::here();
    seeds.args(["run", "--quiet", "--bin", "seeds", "--manifest-path"]).arg(&manifest);
    passes(&mut seeds, "the seeds of the fuzz targets could not be made")?;
    for name in chosen {
        let hint = format!("the input is in fuzz/artifacts/{name}; cargo fuzz run {name} FILE repeats it");
        passes(&mut command(name, time), &hint)?;
    }
    Ok(())
}

fn command(target: &str, time: Duration) -> Command {
    let mut command = Command::new(root().join("bin/cargo-fuzz"));
    command.current_dir(cargo::workspace());
    // The sanitizer's flag is an unstable one, and the stable compiler has its runtime.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.args(["run", target, "--"]);
    command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
    command.arg(format!("-timeout={SECONDS_PER_INPUT}"));
    command.arg(format!("-malloc_limit_mb={ALLOCATION_MB}"));
    command.arg(format!("-rss_limit_mb={RESIDENT_MB}"));
    command.arg("-print_final_stats=1");
    command
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let dir = cargo::workspace().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// A duration such as `60s`, `10m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("needs a duration such as 60s, 10m or 1h".to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| "needs a duration such as 60s, 10m or 1h".to_owned())?;
    Ok(Duration::from_secs(count * unit))
}
