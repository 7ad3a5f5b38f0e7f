//! The cache against admin ports that answer slowly, hugely or not at all.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use tokio::task::LocalSet;

use super::*;

/// An admin port on the loopback interface that answers each request with `answer`, or not at all.
fn admin_port(answer: Option<String>) -> AdminEndpoint {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin_port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Some(answer) = &answer else {
                silent.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.as_bytes()));
        }
    });
    AdminEndpoint { pid: std::process::id(), admin_port }
}

fn proxy() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 8080))
}

fn run<T>(task: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, task)
}

async fn ask(sidecars: &Sidecars, sidecar: AdminEndpoint) -> Option<Brief> {
    let answer = sidecars.brief(sidecar, proxy(), tracer_mesh::CURL_CONNECT).await;
    answer.map(|answer| answer.brief)
}

/// A dump in which the HTTP listener for the proxy's port has this name.
fn dump(name: &str) -> String {
    include_str!("../../../../tests/dumps/istio-1.20.8.json").replace("0.0.0.0_8080", name)
}

#[test]
fn slow_admin_port_costs_no_other_pod_its_explanation() {
    run(async {
        let sidecars = Sidecars::new();
        let (slow, good) = (admin_port(None), admin_port(Some(dump("0.0.0.0_8080"))));
        let waiting = tokio::task::spawn_local({
            let sidecars = sidecars.clone();
            async move { ask(&sidecars, slow).await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        assert!(ask(&sidecars, good).await.is_some());
        assert!(start.elapsed() < EXPLAIN_TIME, "it did not wait for the slow one: {:?}", start.elapsed());
        assert_eq!(waiting.await.expect("it ends"), None);
        // It is left alone for a while.
        let start = Instant::now();
        assert_eq!(ask(&sidecars, slow).await, None);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(sidecars.fetches(), Fetches { ok: 1, failed: 1 });
    });
}

#[test]
fn hostile_name_of_a_listener_is_cut() {
    run(async {
        let sidecars = Sidecars::new();
        let hostile = admin_port(Some(dump(&"x".repeat(2 << 20))));
        let brief = ask(&sidecars, hostile).await.expect("an explanation");
        assert!(brief.listener.is_some_and(|name| name.len() < 2 << 10));
    });
}

#[test]
fn known_configuration_answers_without_a_fetch() {
    run(async {
        let sidecars = Sidecars::new();
        let sidecar = admin_port(Some(dump("0.0.0.0_8080")));
        let first = ask(&sidecars, sidecar).await;
        for port in 1..20 {
            sidecars.brief(sidecar, SocketAddr::from(([10, 0, 0, 1], port)), tracer_mesh::CURL_CONNECT).await;
        }
        assert_eq!((ask(&sidecars, sidecar).await, sidecars.fetches().ok), (first, 1));
    });
}
