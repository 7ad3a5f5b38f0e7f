//! The server under hostile clients: it keeps its bounds and answers a scraper meanwhile.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::LocalSet,
};

use super::*;
use crate::http_server::HEADER_TIMEOUT;
use tokio::net::TcpSocket;

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Runs `clients` against a new server.
fn against<F: Future<Output = ()>>(clients: impl FnOnce(SocketAddr, Metrics) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let server = MetricsServer::bind("0.0.0.0:0".parse().expect("an address")).expect("a port");
        let metrics = Metrics::empty(&[]).expect("metrics");
        let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
        server.spawn(metrics.clone());
        clients(address, metrics).await;
    });
}

/// Sends these bytes from 127.0.0.1, and returns what the server answers until it closes.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    talk_from([127, 0, 0, 1], address, bytes).await
}

/// Sends these bytes from this address.
async fn talk_from(from: [u8; 4], address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect_from(from, address).await;
    // The server may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it closes");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn connect_from(from: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("a loopback address");
    socket.connect(address).await.expect("a connection")
}

#[test]
fn scrape_is_answered_in_the_accepted_format() {
    against(|address, _| async move {
        let text = talk(address, SCRAPE).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("egress_tracer_build_info{version="), "{text}");
        let open = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                     Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
        let text = talk(address, open).await;
        assert!(text.contains("application/openmetrics-text; version=1.0.0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(
            talk(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains("404")
        );
        assert!(
            talk(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
                .contains("405")
        );
    });
}

#[test]
fn garbage_and_endless_headers_are_rejected() {
    against(|address, _| async move {
        let noise: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for garbage in [&noise[..], b"\0\0\0\0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n"] {
            let answer = talk(address, garbage).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        let endless = [b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ", &vec![b'a'; 1 << 20][..]].concat();
        let answer = talk(address, &endless).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(talk(address, SCRAPE).await.starts_with("HTTP/1.1 200 "), "it still serves");
    });
}

#[test]
fn thousand_slow_connections_keep_no_scraper_out() {
    against(|address, metrics| async move {
        let mut slow = Vec::new();
        for n in 0..1000_u16 {
            // Twenty neighbors with fifty connections each.
            let [_, low] = (n % 20).to_be_bytes();
            let mut stream = connect_from([127, 0, 1, low], address).await;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").await.expect("it takes the beginning");
            slow.push(stream);
        }
        let start = Instant::now();
        assert!(talk(address, SCRAPE).await.starts_with("HTTP/1.1 200 "));
        assert!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
        let closed = metrics.0.rejected.with_label_values(&["connections"]).get();
        assert_eq!(closed, 1000 + 1 - CONNECTIONS as u64);
        // The others run into the timeout of a request's head.
        for mut stream in slow {
            let mut rest = Vec::new();
            let _ = timeout(HEADER_TIMEOUT * 3, stream.read_to_end(&mut rest)).await.expect("it closes");
        }
    });
}

#[test]
fn requests_beyond_a_peers_rate_are_refused_and_another_peer_is_served() {
    against(|address, metrics| async move {
        let (mut served, mut refused) = (0, 0);
        for n in 0..200 {
            let answer = talk(address, SCRAPE).await;
            let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 429 ");
            served += u32::from(answer.starts_with("HTTP/1.1 200 "));
            refused += u32::from(is_refused);
            if n % 20 == 0 {
                let other = talk_from([127, 0, 0, 2], address, SCRAPE).await;
                assert!(other.starts_with("HTTP/1.1 200 "), "{n}: {other}");
            }
        }
        assert_eq!(served + refused, 200);
        assert!((SCRAPE_BURST..100).contains(&served), "{served}");
        assert_eq!(metrics.0.rejected.with_label_values(&["rate"]).get(), u64::from(refused));
    });
}
