//! `egress-tracer check`: tries each hook of this kernel, and says what is missing, why, and what to do. It captures
//! nothing and leaves nothing behind.

use std::{fs, io::Write, process::ExitCode};

use aya::maps::MapType;
use serde::Serialize;

use super::scope::cgroup2_root;
use crate::{
    privilege,
    probes::{FamilySpec, btf_offsets, probe_support::FamilySupport},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer check
  egress-tracer check -o json";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one object
    Json,
}

#[derive(Serialize)]
struct Findings {
    v: u8,
    kernel: String,
    machine: String,
    facts: Vec<Fact>,
    families: Vec<Finding>,
    /// The family that `--family auto` uses.
    family: Option<&'static str>,
}

/// A condition that the kernel or the process meets or does not meet.
#[derive(Serialize)]
struct Fact {
    name: String,
    ok: bool,
    detail: String,
}

#[derive(Serialize)]
struct Finding {
    family: &'static str,
    works: bool,
    reason: Option<String>,
    advice: Option<&'static str>,
    hooks: Vec<HookFinding>,
}

#[derive(Serialize)]
struct HookFinding {
    hook: &'static str,
    program: &'static str,
    loaded: bool,
    attached: bool,
    verified_instructions: Option<u32>,
    error: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let findings = findings();
    let mut out = std::io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&findings)?)?,
        Format::Table => print(&findings, &mut out)?,
    }
    Ok(if findings.family.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn findings() -> Findings {
    let word = |name| read(&format!("/proc/sys/kernel/{name}"));
    let cgroups = cgroup2_root();
    let mut facts = vec![btf(), cgroup_fact(&cgroups), ring_buffer()];
    facts.extend(capabilities());
    facts.extend(lockdown());
    let families: Vec<Finding> = FamilySpec::ALL
        .into_iter()
        .map(|family| match &cgroups {
            Ok(root) => finding(FamilySupport::of(family, root)),
            Err(error) => {
                finding(FamilySupport { family, refused: Some(format!("{error:#}")), hooks: Vec::new() })
            }
        })
        .collect();
    let family = families.iter().find(|finding| finding.works).map(|finding| finding.family);
    let machine = nix::sys::utsname::uname().map_or_else(
        |_| std::env::consts::ARCH.to_owned(),
        |name| name.machine().to_string_lossy().into_owned(),
    );
    Findings { v: 1, kernel: word("osrelease"), machine, facts, families, family }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("cannot read {path}: {error}")).trim().to_owned()
}

fn fact(name: impl Into<String>, ok: bool, detail: impl Into<String>) -> Fact {
    Fact { name: name.into(), ok, detail: detail.into() }
}

fn btf() -> Fact {
    match fs::metadata(btf_offsets::KERNEL_BTF) {
        Ok(found) => match btf_offsets::of_this_kernel() {
            Ok(_) => fact(
                "BTF",
                true,
                format!(
                    "{}, {} KiB, has every field that is read",
                    btf_offsets::KERNEL_BTF,
                    found.len() / 1024
                ),
            ),
            Err(error) => fact("BTF", false, format!("{error:#}; fentry and kprobe need it")),
        },
        Err(error) => {
            fact("BTF", false, format!("{}: {error}; fentry and kprobe need it", btf_offsets::KERNEL_BTF))
        }
    }
}

fn cgroup_fact(root: &anyhow::Result<std::path::PathBuf>) -> Fact {
    match root {
        Ok(root) => fact("cgroup v2", true, root.display().to_string()),
        Err(error) => fact("cgroup v2", false, format!("{error:#}")),
    }
}

fn ring_buffer() -> Fact {
    match aya::sys::is_map_supported(MapType::RingBuf) {
        Ok(true) => fact("ring buffer", true, "can be made"),
        Ok(false) => fact("ring buffer", false, "this kernel has none; they came with 5.8"),
        Err(error) => fact("ring buffer", false, format!("cannot be tried: {error}")),
    }
}

fn capabilities() -> Vec<Fact> {
    let held = privilege::ALL.iter();
    held.map(|capability| fact(capability.name, capability.is_held(), capability.what_for)).collect()
}

fn lockdown() -> Option<Fact> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let mode = modes.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
    Some(fact(
        "lockdown",
        mode != "confidentiality",
        format!("{mode}; confidentiality forbids reading memory"),
    ))
}

fn finding(trial: FamilySupport) -> Finding {
    let works = trial.works();
    let reason = trial.refused.clone().or_else(|| {
        let first = trial.hooks.iter().find(|attempt| !attempt.attached)?;
        let step = if first.loaded { "attach" } else { "load" };
        let error = first.error.as_deref().unwrap_or("no reason given");
        Some(format!("cannot {step} {}: {error}", first.hook.point))
    });
    let advice = (!works).then(|| advice(trial.family, reason.as_deref().unwrap_or_default()));
    let hooks = trial.hooks.into_iter().map(|attempt| HookFinding {
        hook: attempt.hook.point,
        program: attempt.hook.program,
        loaded: attempt.loaded,
        attached: attempt.attached,
        verified_instructions: attempt.verified_instructions,
        error: attempt.error,
    });
    Finding { family: trial.family.name, works, reason, advice, hooks: hooks.collect() }
}

/// What to do where a family does not work.
fn advice(family: &FamilySpec, reason: &str) -> &'static str {
    if !nix::unistd::geteuid().is_root() && reason.contains("ermission") {
        return "run it as root, or with the capabilities above";
    }
    family.advice
}

fn print(findings: &Findings, out: &mut impl Write) -> std::io::Result<()> {
    let mark = |ok| if ok { "yes" } else { "no" };
    let line = |out: &mut dyn Write, name: &str, ok, detail: &str| {
        writeln!(out, "{name:<32} {:<4} {detail}", mark(ok)).map(drop)
    };
    writeln!(out, "kernel {} ({})\n", findings.kernel, findings.machine)?;
    for Fact { name, ok, detail } in &findings.facts {
        line(out, name, *ok, detail)?;
    }
    for family in &findings.families {
        writeln!(out)?;
        line(out, family.family, family.works, family.reason.as_deref().unwrap_or("every hook attached"))?;
        for hook in &family.hooks {
            let detail = match (&hook.error, hook.verified_instructions) {
                (Some(error), _) => error.clone(),
                (None, Some(count)) => format!("{count} instructions verified"),
                (None, None) => String::new(),
            };
            line(out, &format!("  {}", hook.hook), hook.attached, &detail)?;
        }
        if let Some(advice) = family.advice {
            writeln!(out, "  {advice}")?;
        }
    }
    writeln!(out)?;
    match findings.family {
        Some(family) => writeln!(out, "`--family auto` uses {family} here."),
        None => writeln!(out, "No probe family works here: egress-tracer cannot trace on this machine."),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_family_is_reported_on_any_machine() {
        let findings = findings();
        assert_eq!(findings.families.len(), FamilySpec::ALL.len());
        assert!(findings.families.iter().all(|family| family.works == family.reason.is_none()));
        let mut text = Vec::new();
        print(&findings, &mut text).expect("printed");
        let text = String::from_utf8(text).expect("text");
        assert!(
            text.contains("fentry") && text.contains("kprobe") && text.contains("`--family auto`")
                || text.contains("No probe family"),
            "{text}"
        );
        assert!(
            !Path::new("/sys/fs/cgroup").join(format!("egress-tracer-check-{}", std::process::id())).exists()
        );
    }
}
