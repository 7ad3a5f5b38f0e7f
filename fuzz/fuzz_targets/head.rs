//! The parsers of requests and answers.
#![no_main]

use tracer_core::head::{Progress, reply, request};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Progress::Complete(head, length) = request(bytes) {
        assert!(length <= bytes.len() && head.authority.is_ascii());
    }
    if let Progress::Complete(_, length) = reply(bytes) {
        assert!(length <= bytes.len());
    }
});
