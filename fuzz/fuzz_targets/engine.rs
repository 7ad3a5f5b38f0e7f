//! Sequences of events, through the redactor.
#![no_main]

use fuzz::{Events, Step, engine};
use tracer_core::{engine::Input, redact::Redactor};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut engine, mut redactor, mut events) = (engine(), Redactor::default(), Events::default());
    let mut reports = Vec::new();
    let mut time = 0;
    for step in Step::decode_all(bytes) {
        let (now, event) = events.next(&step);
        time = now;
        let input = match event {
            Some(mut event) => {
                redactor.redact(&mut event);
                Input::Event(event)
            }
            None => Input::Tick(now),
        };
        engine.feed(input, &mut reports);
        let stats = engine.stats();
        assert!(stats.connections <= 17 && stats.pending <= 17 * 64, "{stats:?}");
        drop(engine.take_wanted());
        for report in reports.drain(..) {
            let line = report.to_json();
            assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        }
    }
    loop {
        engine.feed(Input::Tick(time + 100_000_000_000), &mut reports);
        reports.clear();
        if !engine.is_behind() {
            break;
        }
    }
    engine.finish(&mut reports);
});
