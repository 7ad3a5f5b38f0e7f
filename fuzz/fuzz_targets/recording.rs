//! Lines of a recording, as `replay` reads them, and of a live stream, as `observe` does.
#![no_main]

use tracer_core::{engine::Input, report::Message};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut engine = fuzz::engine();
    let mut reports = Vec::new();
    for line in text.lines() {
        if let Ok(input) = serde_json::from_str::<Input>(line) {
            engine.feed(input, &mut reports);
        }
        let _ = serde_json::from_str::<Message>(line);
    }
    engine.finish(&mut reports);
});
