//! The real istiod as judge: each situation is played on a real mesh, what happened is measured, and what egress-tracer said
//! of it, live and from the sidecar's configuration, is compared with what is right by that measure. Then each fix that it
//! prints is applied for real.
//!
//! What is wrong today is in `tests/mesh/mismatches.txt` and `tests/mesh/failing_fixes.txt`, which only shrink.

mod default_dump;
mod fixes;
mod fixes_page;
mod kept_dumps;
mod known_wrong;
mod reality;
mod stage;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use fixes_page::{Row, Rows};
use reality::Verdict;
use stage::Stage;
use table::{Client, Request, Situation};

/// Meshes side by side: most of the time is istiod's debounce, which costs no processor. The last one has two stacks.
const MESHES: usize = 5;

/// What came of some situations.
#[derive(Debug, Default)]
struct Outcome {
    /// `SITUATION live|explain|defaults`, and what it says and what is right.
    wrong: BTreeMap<String, String>,
    /// What was printed and tried.
    fixes: Rows,
    /// Situations that could not be played, and why.
    unplayed: Vec<String>,
    /// How long each situation took.
    took: Vec<(Duration, String)>,
    /// How often each verdict was the right one.
    counts: BTreeMap<String, usize>,
}

impl Outcome {
    /// Plays the `part`th of the parts of the table on a mesh of its own.
    fn of_part(part: usize, only: &str) -> Self {
        let start = Instant::now();
        let dual_stack = part + 1 == MESHES;
        let mut stage = Stage::build(dual_stack).expect("a mesh with its pods");
        let mut table =
            if dual_stack { table::dual_stack(&stage.addresses()) } else { table::all(&stage.addresses()) };
        table.retain(|situation| situation.name.contains(only));
        let (parts, part) = if dual_stack { (1, 0) } else { (MESHES - 1, part) };
        let mut outcome = Self::default();
        for situation in share(&table, parts, part) {
            let start = Instant::now();
            if let Err(error) = outcome.play(&mut stage, situation, !only.is_empty()) {
                outcome.unplayed.push(format!("{}: {error:#}", situation.name));
            }
            outcome.took.push((start.elapsed(), situation.name.clone()));
        }
        eprintln!("mesh {part}: {} situations in {:.1} s", outcome.took.len(), start.elapsed().as_secs_f32());
        outcome
    }

    fn play(&mut self, stage: &mut Stage, situation: &Situation, verbose: bool) -> Result<()> {
        let played = stage.play(situation)?;
        let right = &played.right;
        *self.counts.entry(right.to_string()).or_default() += 1;
        let explained = played.explained.as_ref();
        let said = explained.map(Verdict::said);
        // When the app sends is in no configuration.
        let is_certain =
            situation.request != Request::Late || explained.is_none_or(|said| said["certain"] == true);
        let explain = said.map(|said| (predicts(&said, right) || !is_certain, "explain", said));
        let live = (same(&played.live, right), "live", played.live.clone());
        for (_, who, said) in [Some(live), explain].into_iter().flatten().filter(|(agrees, ..)| !agrees) {
            self.wrong.insert(format!("{} {who}", situation.name), format!("says {said}, right is {right}"));
            if verbose {
                eprintln!("{} {who} says {said}, right is {right}: {:?}", situation.name, played.seen);
            }
        }
        if let (Some(explained), Some((dump, defaults))) = (explained, &played.defaults) {
            let (running, said) = (Verdict::said(explained), Verdict::said(defaults));
            // What a name resolves to is the sidecar's own knowledge, and in no dump of istiod's.
            if running != said && !situation.has_names() {
                let what = format!("says {said}, of the running configuration {running}");
                self.wrong.insert(format!("{} defaults", situation.name), what);
            }
            if known_wrong::updates() {
                kept_dumps::keep(&situation.name, &played.seen, &running, dump)?;
            }
        }
        if let Some(explained) = explained {
            let tried = fixes::try_all(stage, situation, explained)?;
            if verbose {
                eprintln!("{}: {tried:#?}", situation.name);
            }
            if right.is_flagged() || !tried.is_empty() {
                let none_because = explained["no_fix_because"].as_str().map(str::to_owned);
                self.fixes
                    .insert(situation.name.clone(), Row { right: right.to_string(), tried, none_because });
            }
        }
        Ok(())
    }

    /// `SITUATION FIX`, and what is wrong with the fix.
    fn failing_fixes(&self) -> BTreeMap<String, String> {
        let all = self.fixes.iter().flat_map(|(name, row)| row.tried.iter().map(move |tried| (name, tried)));
        all.filter_map(|(name, tried)| Some((format!("{name} {}", tried.fix), tried.fault.clone()?)))
            .collect()
    }

    fn add(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
        self.fixes.extend(other.fixes);
        self.unplayed.extend(other.unplayed);
        self.took.extend(other.took);
        for (verdict, count) in other.counts {
            *self.counts.entry(verdict).or_default() += count;
        }
    }
}

// One module for all, so that `cargo xtask test --without mesh` can leave it out by its name.
mod real_mesh {
    use super::*;

    #[test]
    fn verdicts_and_fixes_are_the_ones_that_the_measured_reality_gives() {
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
        all.took.sort();
        let slowest: Vec<_> = all.took.iter().rev().take(8).collect();
        eprintln!("{:.1} s, the slowest {slowest:.1?}: {:#?}", start.elapsed().as_secs_f32(), all.counts);
        assert!(only.is_empty(), "only a part was played: {all:#?}");
        let played = all.unplayed.is_empty().then_some(());
        let played = played.ok_or_else(|| format!("these could not be played: {:#?}", all.unplayed));
        let verdicts = known_wrong::judge(&known_wrong::file("mesh/mismatches.txt"), &all.wrong);
        let fixes = known_wrong::judge(&known_wrong::file("mesh/failing_fixes.txt"), &all.failing_fixes());
        let page = judge_page(&all.fixes);
        let faults: Vec<String> =
            [played, verdicts, fixes, page].into_iter().filter_map(Result::err).collect();
        assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    }
}

/// One of `parts` parts of the table that take about equally long. Neighbors stay neighbors, because what is remembered of an
/// address is a part of some situations.
fn share(table: &[Situation], parts: usize, part: usize) -> &[Situation] {
    // A pod starts for each client, and once more for a fix by annotation.
    let cost = |situation: &Situation| if situation.client == Client::Default { 1 } else { 2 };
    let whole: usize = table.iter().map(cost).sum();
    let start_of = |part: usize| {
        let mut sum = 0;
        let is_before = |situation: &&Situation| {
            sum += cost(situation);
            sum * parts <= whole * part
        };
        table.iter().take_while(is_before).count()
    };
    &table[start_of(part)..if part + 1 == parts { table.len() } else { start_of(part + 1) }]
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
        // A sidecar that the proxy has closes what is neither plaintext nor the mesh's mTLS.
        let closed = right.reason.as_deref() == Some("closed_without_reply");
        return said.name == "tunneled" || (closed && said.name == "wrapped_in_tls");
    }
    same(said, right)
}

/// Compares `docs/fixes.md` with what the run gives.
fn judge_page(rows: &Rows) -> Result<(), String> {
    let (path, page) = (known_wrong::file("../docs/fixes.md"), fixes_page::page(rows));
    if known_wrong::updates() {
        fs::write(&path, page).expect("the page is written");
        return Ok(());
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    let differs = |(new, old): &(&str, &str)| new != old;
    match page.lines().zip(is.lines().chain(std::iter::repeat(""))).find(differs) {
        None if page == is => Ok(()),
        difference => Err(format!(
            "{} is stale; UPDATE_MISMATCHES=1 writes it. The first line that differs: {difference:?}",
            path.display()
        )),
    }
}
