//! The engine's processor time: a recording, the JSON of its reports, and sessions that come and go among many live ones.
//! `cargo bench -p tracer-core --bench core`; each row's time is that of one event, or of one report.

mod traffic;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use tracer_core::{
    engine::{Engine, Input, Settings},
    report::Reports,
};

use traffic::Node;

/// How many sessions are generated at a time, outside of the measurement.
const BATCH: u64 = 200;
/// How many events a session has.
const EVENTS: u64 = 7;

fn recorded(criterion: &mut Criterion) {
    let inputs = traffic::recorded(2_000);
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(5));
    group.bench_function("recorded", |bencher| {
        bencher.iter_custom(|events| {
            let mut left = usize::try_from(events).expect("fewer");
            let mut took = Duration::ZERO;
            while left > 0 {
                let some: Vec<Input> = inputs.iter().take(left).cloned().collect();
                left -= some.len();
                let mut core = traffic::core(Settings::DEFAULT_CAPACITY);
                took += feed(&mut core, some);
            }
            took
        });
    });
    group.finish();
}

fn json(criterion: &mut Criterion) {
    let (mut core, mut reports) = (traffic::core(Settings::DEFAULT_CAPACITY), Vec::new());
    for input in traffic::recorded(100) {
        core.feed(input, &mut reports);
    }
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(5));
    let (mut nth, mut line) = (0, Vec::new());
    group.bench_function("json", |bencher| {
        bencher.iter(|| {
            line.clear();
            reports[nth % reports.len()].write_line(&mut line);
            nth += 1;
            black_box(line.len())
        });
    });
    group.finish();
}

fn live(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(5));
    for sessions in [1_000, 100_000, 1_000_000] {
        // Generated only if the row runs: a million sessions take a while.
        let mut alive = None;
        group.bench_function(BenchmarkId::new("live", sessions), |bencher| {
            let (core, node) = alive.get_or_insert_with(|| alive_with(sessions));
            bencher.iter_custom(|events| {
                // Complete batches are played; the time is scaled to the events that criterion asked for.
                let batches = events.div_ceil(BATCH * EVENTS);
                let mut took = Duration::ZERO;
                for _ in 0..batches {
                    let mut inputs = Vec::new();
                    for _ in 0..BATCH {
                        node.end(&mut inputs);
                        node.begin(&mut inputs);
                    }
                    took += feed(core, inputs);
                }
                let (asked, played) = (u128::from(events), u128::from(batches * BATCH * EVENTS));
                Duration::from_nanos(u64::try_from(took.as_nanos() * asked / played).expect("not so long"))
            });
        });
    }
    group.finish();
}

fn alive_with(sessions: usize) -> (Engine, Node) {
    let (mut core, mut node) = (traffic::core(sessions), Node::new());
    for _ in 0..sessions {
        let mut inputs = Vec::new();
        node.begin(&mut inputs);
        feed(&mut core, inputs);
    }
    assert!(core.stats().connections >= sessions, "{:?}", core.stats());
    (core, node)
}

fn feed(core: &mut Engine, inputs: Vec<Input>) -> Duration {
    let mut reports: Reports = Vec::new();
    // The time of this thread, which other load on the machine does not change.
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    let start = now();
    for input in inputs {
        core.feed(input, &mut reports);
        // Each report is dropped at once, as its sinks would do.
        black_box(&reports);
        reports.clear();
    }
    now().saturating_sub(start)
}

criterion_group!(benches, recorded, json, live);
criterion_main!(benches);
