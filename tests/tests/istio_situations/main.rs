//! The real istiod as judge: each situation is played on a real mesh, what happened is measured, and what egress-tracer said
//! of it, live and from the sidecar's configuration, is compared with what is right by that measure.
//!
//! Where it is wrong today is listed in `tests/mesh/mismatches.txt`, which only shrinks: a mismatch that is not listed fails,
//! and so does a line whose situation is right by now. `UPDATE_MISMATCHES=1` writes the list.

mod reality;
mod stage;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use reality::Verdict;
use stage::Stage;
use table::Situation;

/// Meshes side by side. Most of the time is istiod's debounce, which costs no processor.
const MESHES: usize = 4;

/// What came of some situations.
#[derive(Debug, Default)]
struct Outcome {
    /// `SITUATION live|explain`, and what it says and what is right.
    wrong: BTreeMap<String, String>,
    /// Situations that could not be played, and why.
    unplayed: Vec<String>,
    /// How often each verdict was the right one.
    counts: BTreeMap<String, usize>,
}

impl Outcome {
    /// Plays the `part`th of the parts of the table on a mesh of its own.
    fn of_part(part: usize, only: &str) -> Self {
        let mut stage = Stage::build().expect("a mesh with its pods");
        let mut table = table::all(&stage.addresses());
        table.retain(|situation| situation.name.contains(only));
        let size = table.len().div_ceil(MESHES).max(1);
        let mut outcome = Self::default();
        for situation in table.chunks(size).nth(part).unwrap_or_default() {
            if let Err(error) = outcome.play(&mut stage, situation, !only.is_empty()) {
                outcome.unplayed.push(format!("{}: {error:#}", situation.name));
            }
        }
        outcome
    }

    fn play(&mut self, stage: &mut Stage, situation: &Situation, verbose: bool) -> Result<()> {
        let played = stage.play(situation)?;
        let right = &played.right;
        *self.counts.entry(right.to_string()).or_default() += 1;
        let explained = stage.explain(&played)?.map(|said| (predicts(&said, right), "explain", said));
        let live = (same(&played.live, right), "live", played.live.clone());
        for (_, who, said) in [Some(live), explained].into_iter().flatten().filter(|(agrees, ..)| !agrees) {
            self.wrong.insert(format!("{} {who}", situation.name), format!("says {said}, right is {right}"));
            if verbose {
                eprintln!("{} {who} says {said}, right is {right}: {:?}", situation.name, played.seen);
            }
        }
        Ok(())
    }

    fn add(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
        self.unplayed.extend(other.unplayed);
        for (verdict, count) in other.counts {
            *self.counts.entry(verdict).or_default() += count;
        }
    }
}

// One module for all, so that `cargo xtask test --without mesh` can leave it out by its name.
mod real_mesh {
    use super::*;

    #[test]
    #[ignore = "its list of mismatches has been held on one machine only: run it by name with --ignored"]
    fn verdicts_are_the_ones_that_the_measured_reality_gives() {
        let start = Instant::now();
        let only = std::env::var("SITUATIONS").unwrap_or_default();
        let mut all = Outcome::default();
        thread::scope(|scope| {
            let only = only.as_str();
            let parts: Vec<_> =
                (0..MESHES).map(|part| scope.spawn(move || Outcome::of_part(part, only))).collect();
            for part in parts {
                all.add(part.join().expect("a part"));
            }
        });
        eprintln!("{:.1} s: {:#?}", start.elapsed().as_secs_f32(), all.counts);
        assert!(only.is_empty(), "only a part was played: {all:#?}");
        assert!(all.unplayed.is_empty(), "these could not be played: {:#?}", all.unplayed);
        judge(&all.wrong);
    }
}

/// Whether the tracer's verdict is the right one.
fn same(said: &Verdict, right: &Verdict) -> bool {
    said.name == right.name
        && said.direction == right.direction
        && (right.reason.is_none() || said.reason == right.reason)
}

/// Whether a configuration's verdict is the right one, as far as a sidecar's configuration can know: what the other side then
/// does with the bytes, and another pod's sidecar, are not in it.
fn predicts(said: &Verdict, right: &Verdict) -> bool {
    let beyond = ["refused_by_proxy", "unreachable", "unanswered"].contains(&right.name.as_str());
    if right.direction == "inbound" || beyond {
        return said.name == "tunneled";
    }
    same(said, right)
}

fn list() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/mesh/mismatches.txt"))
}

/// Compares what is wrong with the list. A key that begins with `~` is wrong only sometimes.
fn judge(wrong: &BTreeMap<String, String>) {
    let text = fs::read_to_string(list()).unwrap_or_default();
    let known: BTreeMap<&str, bool> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(key, _)| (key.trim_start_matches('~'), key.starts_with('~')))
        .collect();
    if std::env::var_os("UPDATE_MISMATCHES").is_some() {
        let head: String =
            text.lines().take_while(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.starts_with('~')).map(str::to_owned).collect();
        let flaky = |key: &str| known.get(key).copied().unwrap_or(false);
        lines.extend(wrong.iter().filter(|(key, _)| !flaky(key)).map(|(key, what)| format!("{key}: {what}")));
        fs::write(list(), head + &lines.join("\n") + "\n").expect("the list");
        return;
    }
    let new: Vec<String> = wrong
        .iter()
        .filter(|(key, _)| !known.contains_key(key.as_str()))
        .map(|(key, what)| format!("{key}: {what}"))
        .collect();
    let gone: Vec<&&str> = known
        .iter()
        .filter(|(key, flaky)| !**flaky && !wrong.contains_key(**key))
        .map(|(key, _)| key)
        .collect();
    assert!(new.is_empty(), "wrong, and not in {}:\n{}", list().display(), new.join("\n"));
    assert!(gone.is_empty(), "right by now: take these out of {}:\n{gone:#?}", list().display());
}
