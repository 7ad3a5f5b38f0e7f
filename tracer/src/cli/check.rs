//! `egress-tracer check`: tries each hook of this kernel, and says what is missing, why, and what to do. It captures
//! nothing and leaves nothing behind.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use aya::maps::MapType;
use serde::Serialize;

use super::scope::cgroup2_root;
use crate::{
    privilege,
    probes::{FamilySpec, btf_offsets, probe_support::FamilySupport},
    terminal::{Color, Judgment, Sheet},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  egress-tracer check
  egress-tracer check -v          every hook, with its size
  egress-tracer check -o json";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Also list every hook
    #[arg(short, long)]
    verbose: bool,
    /// Color in the text
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
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
    /// The conclusion in one sentence.
    answer: String,
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
    let text = match args.output {
        Format::Json => serde_json::to_string(&findings)? + "\n",
        Format::Table => {
            let mut sheet = Sheet::new(args.color, std::io::stdout().is_terminal());
            show(&findings, args.verbose, &mut sheet);
            sheet.into_text()
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if findings.family.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn findings() -> Findings {
    let word = |name| read(&format!("/proc/sys/kernel/{name}"));
    let cgroups = cgroup2_root();
    let mut facts = vec![btf(), cgroup_fact(&cgroups), ring_buffer()];
    facts.extend(capabilities());
    facts.extend(lockdown());
    // Without the right to try, the kernel's answer says nothing about the kernel.
    let untried = privilege::missing_for_probes();
    let untried = untried.or_else(|| cgroups.as_ref().err().map(|error| format!("{error:#}")));
    let families: Vec<Finding> = FamilySpec::ALL
        .into_iter()
        .map(|family| match (&cgroups, &untried) {
            (Ok(root), None) => finding(FamilySupport::of(family, root), Some(family.advice)),
            (_, why) => finding(FamilySupport { family, refused: why.clone(), hooks: Vec::new() }, None),
        })
        .collect();
    let family = families.iter().find(|finding| finding.works).map(|finding| finding.family);
    let machine = nix::sys::utsname::uname().map_or_else(
        |_| std::env::consts::ARCH.to_owned(),
        |name| name.machine().to_string_lossy().into_owned(),
    );
    let answer = match (family, &untried) {
        (Some(family), _) => format!("egress-tracer can trace here: --family auto uses {family}"),
        (None, Some(why)) => format!("egress-tracer cannot trace here: {why}"),
        (None, None) => "egress-tracer cannot trace here: this kernel takes no probe family".to_owned(),
    };
    Findings { v: 1, answer, kernel: word("osrelease"), machine, facts, families, family }
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

/// What was found of a family. `advice`: what to do where it does not work.
fn finding(trial: FamilySupport, advice: Option<&'static str>) -> Finding {
    let works = trial.works();
    let reason = trial.refused.clone().or_else(|| {
        let first = trial.hooks.iter().find(|attempt| !attempt.attached)?;
        let step = if first.loaded { "attach" } else { "load" };
        let error = first.error.as_deref().unwrap_or("no reason given");
        Some(format!("cannot {step} {}: {error}", first.hook.point))
    });
    let advice = advice.filter(|_| !works);
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

/// The answer first, then what it rests on.
fn show(findings: &Findings, verbose: bool, sheet: &mut Sheet) {
    let is_fine = findings.family.is_some();
    sheet.judge(if is_fine { Judgment::Good } else { Judgment::Bad }, &findings.answer);
    // One family is enough.
    let missing = if is_fine { Judgment::Doubt } else { Judgment::Bad };
    let judgment = |ok| if ok { Judgment::Good } else { missing };
    sheet.blank();
    let mut reasons: Vec<&str> = Vec::new();
    for family in &findings.families {
        let reason = family.reason.as_deref().unwrap_or("every hook can be attached");
        let said = reasons.contains(&reason) && family.reason.is_some();
        sheet.judge(
            judgment(family.works),
            &format!("{:<7} {}", family.family, if said { "as above" } else { reason }),
        );
        reasons.push(reason);
        for hook in &family.hooks {
            let detail = match (&hook.error, hook.verified_instructions) {
                (Some(error), _) => error.clone(),
                (None, Some(count)) => format!("{count} instructions verified"),
                (None, None) => String::new(),
            };
            if verbose {
                sheet.line(10, &format!("{} {}: {detail}", if hook.attached { "✓" } else { "✗" }, hook.hook));
            }
        }
        if let Some(advice) = family.advice.filter(|_| !is_fine && !said) {
            sheet.line(10, advice);
        }
    }
    sheet.blank();
    for Fact { name, ok, detail } in &findings.facts {
        sheet.judge(judgment(*ok), &format!("{name}: {detail}"));
    }
    sheet.row("kernel", &format!("{} ({})", findings.kernel, findings.machine));
    if is_fine {
        sheet.row("next", "egress-tracer observe, or egress-tracer agent");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use tracer_core::report::Colors;

    fn sample(works: bool) -> Findings {
        let hook = |hook, error: Option<&str>| HookFinding {
            hook,
            program: "egress_program",
            loaded: error.is_none(),
            attached: error.is_none(),
            verified_instructions: error.is_none().then_some(4711),
            error: error.map(str::to_owned),
        };
        let refused = "the kernel refuses tracing programs: Operation not permitted (os error 1)";
        Findings {
            v: 1,
            answer: if works {
                "egress-tracer can trace here: --family auto uses cgroup".to_owned()
            } else {
                "egress-tracer cannot trace here: this kernel takes no probe family".to_owned()
            },
            kernel: "6.12.0".to_owned(),
            machine: "x86_64".to_owned(),
            facts: vec![
                fact("BTF", true, "/sys/kernel/btf/vmlinux, 5120 KiB, has every field that is read"),
                fact("CAP_SYS_ADMIN", false, privilege::ALL[3].what_for),
            ],
            families: vec![
                Finding {
                    family: "fentry",
                    works: false,
                    reason: Some(refused.to_owned()),
                    advice: Some(FamilySpec::ALL[0].advice),
                    hooks: Vec::new(),
                },
                Finding {
                    family: "kprobe",
                    works: false,
                    reason: Some(refused.to_owned()),
                    advice: Some(FamilySpec::ALL[1].advice),
                    hooks: Vec::new(),
                },
                Finding {
                    family: "cgroup",
                    works,
                    reason: (!works).then(|| "cannot attach connect4: Invalid argument".to_owned()),
                    advice: (!works).then_some(FamilySpec::ALL[2].advice),
                    hooks: vec![
                        hook("sock_ops", None),
                        hook("connect4", (!works).then_some("Invalid argument")),
                    ],
                },
            ],
            family: works.then_some("cgroup"),
        }
    }

    #[test]
    fn answer_comes_first_in_every_width() {
        for (name, works, verbose) in
            [("works", true, false), ("works_verbose", true, true), ("fails", false, false)]
        {
            for width in [80, 120, 200] {
                for (colors, suffix) in [(Colors::Off, ""), (Colors::On, "_in_color")] {
                    let mut sheet = Sheet::with(colors, width, true);
                    show(&sample(works), verbose, &mut sheet);
                    let text = sheet.into_text().replace('\u{1b}', "<ESC>");
                    insta::assert_snapshot!(format!("{name}_{width}{suffix}"), text);
                }
            }
        }
    }

    #[test]
    fn every_family_is_reported_on_any_machine() {
        let findings = findings();
        assert_eq!(findings.families.len(), FamilySpec::ALL.len());
        assert!(findings.families.iter().all(|family| family.works == family.reason.is_none()));
        let mut sheet = Sheet::with(Colors::Off, 80, true);
        show(&findings, true, &mut sheet);
        let text = sheet.into_text();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains("egress-tracer can") && text.contains("fentry"), "{text}");
        assert!(
            !Path::new("/sys/fs/cgroup").join(format!("egress-tracer-check-{}", std::process::id())).exists()
        );
    }
}
