//! Costs on a kernel with tracing programs: the fentry and kprobe families, compared with empty programs on the same functions
//! and with bpftrace and libbpf-tools on the same traffic, counted in a guest (`tests/src/bin/guest/cost.rs`). The processor
//! is emulated, so only ratios are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::figures::{Figures, Table, median, short};
use crate::cargo::{self, GuestPrograms};
use crate::guest::{self, Clock, TestResult};
use crate::initramfs::Initramfs;
use crate::kernel_package::{self, KERNELS};
use crate::progress;

/// The guest's kernel.
const KERNEL: &str = "6.12";
const TIMEOUT: Duration = Duration::from_mins(10);
const FAMILIES: [&str; 2] = ["fentry", "kprobe"];

/// Kinds of traffic, by their letter in the guest's output.
const FLOWS: [(&str, &str); 3] = [
    ("a", "long-lived flow past its first bytes"),
    ("b", "short flow without a CONNECT"),
    ("c", "CONNECT session, answered by the sidecar"),
];

/// Tools with the same purpose, and what they cannot tell.
const PEERS: [(&str, &str); 3] = [
    (
        "bpftrace",
        "which process answered, with what, whether there is a sidecar, and a request line in several pieces; it runs at \
         every send of the node, also long past the first bytes",
    ),
    ("tcpconnect", "request and answer: it sees only the dial"),
    ("tcptracer", "request and answer: it sees that a connection began, was accepted, and ended"),
];

/// The guest's numbers for each watcher.
type Found<'a> = BTreeMap<&'a str, &'a TestResult>;

pub(crate) fn measure(quick: bool, figures: &mut Figures) -> Result<()> {
    let (name, suite, _) = KERNELS.iter().find(|(name, ..)| *name == KERNEL).context("a kernel")?;
    let kernel =
        progress::step(&format!("Getting Linux {name}"), |bar| kernel_package::get(bar, name, suite))?;
    let tracer = cargo::build_tracer(true)?;
    let generator = cargo::build_load()?;
    let GuestPrograms { init, client } = cargo::build_guest()?;
    let mut initramfs = Initramfs::new(&init, &tracer, &client)?;
    initramfs.program(&generator, "/bin/load".as_ref())?;
    for (peer, _) in PEERS {
        initramfs.system_program(peer)?;
    }
    let work = tempfile::tempdir()?;
    let words = format!("guest.cost={}", if quick { 0.5 } else { 2.0 });
    let said = progress::step(&format!("Measuring in a guest with Linux {name}"), |bar| {
        let bar = bar.clone();
        let show = move |said: &TestResult| bar.set_message(format!("{} is done", said.test));
        guest::boot(&kernel, initramfs, work.path(), &words, Clock::Instructions, TIMEOUT, show)
    })?;
    let mut found = BTreeMap::new();
    for said in &said {
        let is_peer = PEERS.iter().any(|(peer, _)| *peer == said.test);
        ensure!(said.ok || is_peer, "the guest did not measure {}: {}", said.test, said.text());
        found.insert(said.test.as_str(), said);
    }
    families(&found, figures)?;
    peers(&found, figures)
}

/// Compares each program with empty ones on the same function.
fn families(found: &Found, figures: &mut Figures) -> Result<()> {
    let (mut rows, mut numbers) = (Vec::new(), serde_json::Map::new());
    let mut bare: Vec<f64> = Vec::new();
    for family in FAMILIES {
        for (letter, flow) in FLOWS {
            let counted = &found.get(family).with_context(|| format!("nothing of {family}"))?.detail[letter];
            let flows = counted["flows"].as_f64().context("a number of flows")?;
            let (mut ours, mut empty) = (0.0, 0.0);
            for hook in counted["hooks"].as_array().into_iter().flatten() {
                let of = |name: &str| hook[name].as_f64().unwrap_or(f64::NAN);
                let runs = of("runs");
                if runs == 0.0 {
                    continue;
                }
                let beside = of("empty_ns") / of("empty_runs");
                bare.push(beside / guest::INSTRUCTION);
                (ours, empty) = (ours + of("ns"), empty + runs * beside);
                rows.push(vec![
                    format!("({letter}) {flow}"),
                    format!("`{}`", hook["hook"].as_str().unwrap_or_default()),
                    short(runs / flows),
                    short(of("ns") / runs / beside),
                ]);
            }
            let ratio = ours / empty;
            rows.push(vec![
                format!("({letter}) {flow}"),
                format!("all of {family}"),
                String::new(),
                format!("**{}**", short(ratio)),
            ]);
            numbers.insert(format!("{family} {letter}"), json!(ratio));
        }
    }
    let bare = median(bare);
    numbers.insert("an empty program, instructions".to_owned(), json!(bare));
    figures.numbers("guest families", Value::Object(numbers));
    figures.table(Table {
        title: "In the kernel, the fentry and kprobe families",
        note: format!(
            "In a guest with Debian's Linux {KERNEL}, as `kernel.bpf_stats_enabled` counts. The guest's emulated \
             processor takes the same time for each instruction, so the figures are numbers of instructions: the same \
             on a busy machine, and blind to caches. A row shows a program's mean run as a multiple of the mean run of \
             empty programs at the same hook in the same run, one before the tracer's and one after it. An empty \
             program's run is little more than the kernel's two clock reads: {bare:.0} instructions here, but most of \
             50 ns on a real processor. The ratios are smaller there, and the targets are for a real processor. The \
             way to a program (a trampoline, a breakpoint) is in neither. In place of the sidecar, a program answers \
             CONNECTs with 404 and returns everything else."
        ),
        head: &["flow", "program", "runs per flow or round trip", "times an empty program"],
        rows,
    });
    Ok(())
}

/// Compares each tool with the tracer's fentry family.
fn peers(found: &Found, figures: &mut Figures) -> Result<()> {
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    // Of kernel programs and process, in ns for each flow.
    let each = |watcher: &str, letter: &str| -> Option<[f64; 2]> {
        let counted = &found.get(watcher)?.detail[letter];
        let flows = counted["flows"].as_f64()?;
        let hooks = counted["hooks"].as_array();
        let ns = match hooks {
            Some(hooks) => hooks.iter().filter_map(|hook| hook["ns"].as_f64()).sum(),
            None => counted["ns"].as_f64()?,
        };
        Some([ns / flows, counted["cpu_ns"].as_f64()? / flows])
    };
    let tracer = [("fentry", "what is inside TLS"), ("kprobe", "what is inside TLS")];
    for (watcher, blind_spot) in tracer.into_iter().chain(PEERS) {
        let name = if FAMILIES.contains(&watcher) {
            format!("egress-tracer, {watcher}")
        } else {
            watcher.to_owned()
        };
        let mut row = vec![name.clone()];
        let said = found.get(watcher).with_context(|| format!("nothing of {watcher}"))?;
        if !said.ok {
            row.extend(["did not run"; 5].map(str::to_owned));
            row.push(said.text().split_whitespace().collect::<Vec<_>>().join(" "));
            rows.push(row);
            continue;
        }
        let mut ratios = serde_json::Map::new();
        for (part, of, letter, beside) in [
            (0, "kernel", "a", "a"),
            (0, "kernel", "b", "b"),
            (0, "kernel", "c", "c"),
            // The tracer's process does not wake for traffic out of its scope.
            (1, "process", "b", "c"),
            (1, "process", "c", "c"),
        ] {
            let ours = each("fentry", beside).context("the tracer's figures")?[part];
            let ratio = each(watcher, letter).context("a watcher's figures")?[part] / ours;
            ratios.insert(format!("{of} {letter}"), json!(ratio));
            row.push(short(ratio));
        }
        row.push(blind_spot.to_owned());
        rows.push(row);
        numbers.push(json!({"watcher": name, "ratios": ratios, "lines": said.detail["lines"]}));
    }
    figures.numbers("guest peers", json!(numbers));
    figures.table(Table {
        title: "Compared with bpftrace and libbpf-tools",
        note: format!(
            "In the same guest, on the same traffic, one after the other: (a) a round trip of a long-lived flow, (b) a \
             short flow without a CONNECT, (c) a CONNECT session. Kernel: all runs of a watcher's programs, as a \
             multiple of the tracer's with fentry. Process: its time, as a multiple of what the tracer's process takes \
             for a CONNECT session. bpftrace prints each CONNECT that reaches `tcp_sendmsg` in one piece (a `kfunc`, \
             its cheapest way); tcpconnect and tcptracer print each connection. All figures are in instructions (Linux \
             {KERNEL})."
        ),
        head: &[
            "watcher",
            "kernel, (a)",
            "kernel, (b)",
            "kernel, (c)",
            "process, (b)",
            "process, (c)",
            "blind spot",
        ],
        rows,
    });
    Ok(())
}
