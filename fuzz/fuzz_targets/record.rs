//! The bytes of one kernel record.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut event) = tracer_core::event::decode(bytes) {
        tracer_core::redact::Redactor::default().redact(&mut event);
        let line = serde_json::to_string(&event).expect("JSON");
        assert_eq!(serde_json::from_str::<tracer_core::event::Event>(&line).expect("an event"), event);
    }
});
