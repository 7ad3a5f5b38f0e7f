//! An app's first bytes, judged by a real configuration.
#![no_main]

use std::{net::SocketAddr, sync::LazyLock};

use tracer_mesh::{Dump, brief};

static DUMP: LazyLock<Dump> = LazyLock::new(|| {
    Dump::from_bytes(include_bytes!("../../tests/dumps/istio-1.20.8.json").to_vec()).expect("a dump")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for port in [3128, 8080] {
        let _ = brief(&DUMP, SocketAddr::from(([10, 0, 0, 1], port)), bytes);
    }
});
