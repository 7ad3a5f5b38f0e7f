//! What an application feels of whoever watches it: round trips, connections a second and bulk throughput through a real
//! Envoy and a real squid. Runs are short and interleaved, and each is held against its neighbour without a watcher, so
//! that what else this machine does falls on both.

use anyhow::Result;
use lab::load::Load;
use serde_json::json;

use super::figures::{Figures, Table, quartiles, short};
use super::observer::Observer;
use super::stage::Stage;

/// `pod` starts a pod: each round has a new one.
pub(crate) fn measure(
    pod: &impl Fn() -> Result<Stage>,
    rounds: usize,
    seconds: f64,
    figures: &mut Figures,
) -> Result<()> {
    let loads = [
        ("round trips a second", Load::RoundTrips(Stage::echo(seconds)), 1.0),
        ("connections (CONNECT granted) a second", Load::Connections(Stage::echo(seconds)), 1.0),
        ("bulk, MB a second", Load::Bulk(Stage::sink(seconds)), 1e6),
    ];
    let watchers = [Observer::Tracer, Observer::Tcpdump, Observer::TcpdumpHeads, Observer::Tshark];
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (title, load, unit) in loads {
        let mut found: Vec<Vec<[f64; 2]>> = vec![Vec::new(); watchers.len()];
        for round in 0..rounds {
            let stage = pod()?;
            let run = |observer: Observer| -> Result<f64> {
                let running = observer.start(&stage)?;
                let rate = stage.run(&load)?.rate() / unit;
                running.stop()?;
                Ok(rate)
            };
            run(Observer::Nobody)?; // once to warm up
            for (nth, watcher) in watchers.into_iter().enumerate() {
                // The tracer is what the target is about, and a percent takes many pairs.
                for _ in 0..if watcher == Observer::Tracer { 8 } else { 1 } {
                    let order = found[nth].len() % 2 == round % 2;
                    let first = run(if order { Observer::Nobody } else { watcher })?;
                    let second = run(if order { watcher } else { Observer::Nobody })?;
                    found[nth].push(if order { [first, second] } else { [second, first] });
                }
            }
            stage.close()?;
        }
        for (watcher, pairs) in watchers.into_iter().zip(found) {
            let [_, alone, _] = quartiles(pairs.iter().map(|[alone, _]| *alone).collect());
            let [low, median, high] = quartiles(pairs.iter().map(|[alone, seen]| seen / alone).collect());
            let percent = |ratio: f64| format!("{:+.1} %", (ratio - 1.0) * 100.0);
            rows.push(vec![
                title.to_owned(),
                watcher.name().to_owned(),
                short(alone),
                format!("**{}**", percent(median)),
                format!("{} to {}", percent(low), percent(high)),
                pairs.len().to_string(),
            ]);
            numbers.push(json!({"what": title, "watcher": watcher.name(), "alone": alone, "ratio": median,
                "quartiles": [low, high], "pairs": pairs.len()}));
            if watcher == Observer::Tracer {
                let what = title.split(" (").next().unwrap_or(title).split(',').next().unwrap_or(title);
                figures.at_least(
                    format!("application, {what}: share of those without a tracer"),
                    median,
                    0.99,
                );
            }
        }
    }
    figures.numbers("application", json!(numbers));
    figures.table(Table {
        title: "What an application feels",
        note: format!(
            "Through Envoy (TCP) and squid's tunnel, client, Envoy, squid and server on the same two cores. The median of \
             pairs of neighbouring runs of {seconds} s, with and without a watcher, in turn first; half of all pairs lie \
             within the spread. On a machine that does other things, a spread wider than a percent cannot tell a percent."
        ),
        head: &["what", "watched by", "unwatched", "difference", "spread", "pairs"],
        rows,
    });
    Ok(())
}
