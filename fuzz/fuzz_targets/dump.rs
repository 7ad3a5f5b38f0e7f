//! A sidecar's configuration, as its admin port gives it.
#![no_main]

use std::net::SocketAddr;

use tracer_mesh::{CURL_CONNECT, Dump, brief, explain};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(dump) = Dump::from_bytes(bytes.to_vec()) else { return };
    for to in [SocketAddr::from(([10, 0, 0, 1], 3128)), SocketAddr::from(([10, 0, 0, 9], 8080))] {
        let _ = brief(&dump, to, CURL_CONNECT);
        let _ = explain(&dump, &[to], CURL_CONNECT);
    }
});
