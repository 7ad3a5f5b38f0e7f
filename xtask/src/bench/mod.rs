//! `cargo xtask bench`: what the tracer costs, beside what an engineer would use instead. Everything is measured in one run
//! on one machine, and ratios are what counts: absolute times are this machine's. It judges by the list of targets, and a
//! target that is missed is shown, not hidden; it is no test.

#![allow(clippy::cast_precision_loss, reason = "figures are no exact numbers")]

mod capture;
mod core;
mod feel;
mod figures;
mod guests;
mod kernel;
mod node;
mod observer;
mod page;
mod stage;
mod start;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use lab::load::LoadGenerator;

use crate::cargo;
use crate::image;
use crate::interrupt;
use crate::requirement::Purpose;
use crate::setup;
use figures::Figures;
use stage::Pods;

/// A part that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The pure core and the evaluator
    Core,
    /// The kernel programs
    Kernel,
    /// Start and stop
    Start,
    /// Capture under load, and its cost beside tcpdump and tshark
    Capture,
    /// What an application feels
    Feel,
    /// The fentry and kprobe families, and bpftrace and libbpf-tools, in a guest
    Guests,
    /// The agent on a node with 250 pods
    Node,
}

/// Measures these parts, or all. Only a whole run that is not quick writes docs/performance.md.
pub(crate) fn run(quick: bool, parts: &[Part]) -> Result<()> {
    let start = Instant::now();
    interrupt::watch()?;
    setup::run(Purpose::Bench, false)?;
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let mut figures = Figures::default();
    // Those that need no pod on this machine.
    let alone = [Part::Core, Part::Guests, Part::Node];
    if parts.is_empty() || parts.iter().any(|part| !alone.contains(part)) {
        let pods = Pods::new(cargo::build_tracer(true)?, LoadGenerator(cargo::build_load()?));
        if wanted(Part::Kernel) {
            let (rounds, seconds) = if quick { (3, 0.3) } else { (11, 1.0) };
            kernel::measure(&pods, rounds, seconds, &mut figures)?;
        }
        if wanted(Part::Start) {
            let rounds = if quick { 3 } else { 15 };
            pods.with_one(|stage| start::measure(stage, rounds, &mut figures))?;
        }
        if wanted(Part::Capture) {
            let (seconds, count, rounds) = if quick { (1, 1_000, 1) } else { (4, 10_000, 5) };
            let sustained = pods.with_one(|stage| capture::rising(stage, seconds, &mut figures))?;
            capture::cost(&pods, rounds, count, sustained / 2, &mut figures)?;
            pods.with_one(|stage| capture::losses(stage, sustained, 4_000, &mut figures))?;
        }
        if wanted(Part::Feel) {
            let (rounds, seconds) = if quick { (1, 1.5) } else { (6, 2.5) };
            feel::measure(&pods, rounds, seconds, &mut figures)?;
        }
    }
    if wanted(Part::Guests) {
        guests::measure(quick, &mut figures)?;
    }
    if wanted(Part::Node) {
        let (image, load) = (image::build(image::RELEASED)?, cargo::build_load()?);
        node::measure(&image.archive, &load, quick, &mut figures)?;
    }
    if wanted(Part::Core) {
        core::measure(quick, &mut figures)?;
    }
    let latest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/latest.json");
    fs::create_dir_all(latest.parent().context("a file in a directory")?)?;
    fs::write(&latest, serde_json::to_string_pretty(&figures.json())? + "\n")?;
    println!("## Targets\n\n{}", figures.targets());
    if parts.is_empty() && !quick {
        page::write(&figures, start.elapsed())?;
    }
    eprintln!("All figures are in target/bench/latest.json ({:.0} s).", start.elapsed().as_secs_f32());
    Ok(())
}
