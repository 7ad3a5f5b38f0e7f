//! Short texts from the command line, the runtime and `/proc`: filters, selectors, cgroup paths, text to escape.
#![no_main]

use tracer_core::{
    escape::escape,
    filter::Filter,
    pod::{container_ids, paths},
    selector::Selector,
};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = text.parse::<Selector>();
    for name in ["namespace", "pod", "selector", "to", "authority", "verdict", "http_status", "flagged"] {
        let _ = Filter::default().add(name, text);
    }
    let _: usize = paths(text).map(|path| container_ids(path).count()).sum();
    assert!(!escape(text).chars().any(char::is_control));
});
