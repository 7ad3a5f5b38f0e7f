//! `cargo xtask bench`: the tracer's cost, compared with the tools that an engineer would use instead. Everything is measured in
//! one run on one machine; ratios count, absolute times are this machine's. It prints which targets are met, and is no test.

#![allow(clippy::cast_precision_loss, reason = "figures are no exact numbers")]

mod capture;
mod engine;
mod app_impact;
mod figures;
mod guests;
mod kernel;
mod node;
mod observer;
mod performance_page;
mod pods;

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
use pods::Pods;

/// A part that can be measured on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPart {
    /// The pure engine and the evaluator
    Engine,
    /// The kernel programs
    Kernel,
    /// Start and stop
    Start,
    /// Capture under load, and its cost compared with tcpdump and tshark
    Capture,
    /// What an application loses
    App,
    /// The fentry and kprobe families, and bpftrace and libbpf-tools, in a guest
    Guests,
    /// The agent on a node with 250 pods
    Node,
}

/// Measures these parts, or all. Only a whole run without `quick` writes docs/performance.md.
pub(crate) fn run(quick: bool, parts: &[BenchPart]) -> Result<()> {
    let start = Instant::now();
    interrupt::watch()?;
    setup::run(Purpose::Bench, false)?;
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let mut figures = Figures::default();
    // These need no pod on this machine.
    let alone = [BenchPart::Engine, BenchPart::Guests, BenchPart::Node];
    if parts.is_empty() || parts.iter().any(|part| !alone.contains(part)) {
        let pods = Pods::new(cargo::build_tracer(true)?, LoadGenerator(cargo::build_load()?));
        if wanted(BenchPart::Kernel) {
            let (rounds, seconds) = if quick { (3, 0.3) } else { (11, 1.0) };
            kernel::measure(&pods, rounds, seconds, &mut figures)?;
        }
        if wanted(BenchPart::Start) {
            let rounds = if quick { 3 } else { 15 };
            pods.with_one(|pod| start::measure(pod, rounds, &mut figures))?;
        }
        if wanted(BenchPart::Capture) {
            let (seconds, count, rounds) = if quick { (1, 1_000, 1) } else { (4, 10_000, 5) };
            let sustained = pods.with_one(|pod| capture::rising(pod, seconds, &mut figures))?;
            capture::cost(&pods, rounds, count, sustained / 2, &mut figures)?;
            pods.with_one(|pod| capture::losses(pod, sustained, 4_000, &mut figures))?;
        }
        if wanted(BenchPart::App) {
            let (rounds, seconds) = if quick { (1, 1.5) } else { (6, 2.5) };
            app_impact::measure(&pods, rounds, seconds, &mut figures)?;
        }
    }
    if wanted(BenchPart::Guests) {
        guests::measure(quick, &mut figures)?;
    }
    if wanted(BenchPart::Node) {
        let (image, load) = (image::build(image::RELEASED)?, cargo::build_load()?);
        node::measure(&image.archive, &load, quick, &mut figures)?;
    }
    if wanted(BenchPart::Engine) {
        engine::measure(quick, &mut figures)?;
    }
    let latest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench/latest.json");
    fs::create_dir_all(latest.parent().context("a file in a directory")?)?;
    fs::write(&latest, serde_json::to_string_pretty(&figures.json())? + "\n")?;
    println!("## Targets\n\n{}", figures.targets());
    if parts.is_empty() && !quick {
        performance_page::write(&figures, start.elapsed())?;
    }
    eprintln!("All figures are in target/bench/latest.json ({:.0} s).", start.elapsed().as_secs_f32());
    Ok(())
}
