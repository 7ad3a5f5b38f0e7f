//! Serves `/metrics`. Connections, their age, the size and time of a request's head, and the rate of each peer's requests are
//! bounded, so that a scraper is answered whatever other clients do.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Metrics, openmetrics::ExpositionFormat};
use crate::{
    http_server::{ConnectionLimit, PeerRates, accept_loop, connection, listen},
    token_bucket::TokenBucket,
};

/// The most open connections; a scraper keeps one.
const CONNECTIONS: usize = 64;
const HEADER_BYTES: usize = 16 << 10;
/// The longest life of a connection, against clients that do not read their answers. A scraper connects again.
const CONNECTION_TIME: Duration = Duration::from_mins(5);
/// Twenty connections and requests a second for each peer.
const PEER_PERIOD: Duration = Duration::from_millis(50);
const PEER_BURST: u32 = 100;
/// One scrape a second for each peer. A Prometheus server and a person need less.
const SCRAPE_PERIOD: Duration = Duration::from_secs(1);
const SCRAPE_BURST: u32 = 20;
/// Ten expositions are written a second, for all peers together; beyond that, the latest one is sent again.
const WRITE_PERIOD: Duration = Duration::from_millis(100);
const WRITE_BURST: u32 = 20;

/// A bound port that is not served yet.
pub struct MetricsServer {
    listener: TcpListener,
}

/// What the connections of a server share.
struct Shared {
    metrics: Metrics,
    open: ConnectionLimit,
    peers: PeerRates,
    scrapes: PeerRates,
    writes: TokenBucket,
    /// The latest exposition in each format.
    latest: RefCell<HashMap<ExpositionFormat, Bytes>>,
}

impl MetricsServer {
    /// Binds the port.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address).and_then(TcpListener::from_std).with_context(|| {
            format!("cannot serve metrics at {address}; is another process there? Choose another --metrics-address")
        })?;
        Ok(Self { listener })
    }

    /// The bound address.
    #[cfg(test)]
    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Serves the port as long as the current `LocalSet` runs.
    pub fn spawn(self, metrics: Metrics) {
        tokio::task::spawn_local(self.serve(metrics));
    }

    async fn serve(self, metrics: Metrics) {
        let shared = Rc::new(Shared {
            metrics,
            open: ConnectionLimit::new(CONNECTIONS),
            peers: PeerRates::new(PEER_PERIOD, PEER_BURST),
            scrapes: PeerRates::new(SCRAPE_PERIOD, SCRAPE_BURST),
            writes: TokenBucket::new(WRITE_PERIOD, WRITE_BURST, Instant::now()),
            latest: RefCell::default(),
        });
        let accept = async || self.listener.accept().await;
        let serve = |(stream, from): (TcpStream, SocketAddr)| {
            let peer = from.ip().to_canonical();
            if !shared.peers.take(peer, Instant::now()) {
                shared.metrics.count_rejected("rate");
                return; // closed without an answer: cheaper than a request
            }
            let id = shared.open.new_id();
            let task = tokio::task::spawn_local(serve_connection(stream, peer, id, Rc::clone(&shared)));
            if shared.open.add(id, peer, task.abort_handle()) {
                shared.metrics.count_rejected("connections");
            }
        };
        match accept_loop("the metrics port", accept, serve).await {}
    }
}

async fn serve_connection(stream: TcpStream, peer: IpAddr, id: u64, shared: Rc<Shared>) {
    let service = service_fn(|request| {
        shared.open.touch(id);
        let shared = Rc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, peer, &request).await) }
    });
    let served = connection(HEADER_BYTES).serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a metrics connection failed: {error}"),
        Err(_) => log::debug!("a metrics connection was open for {CONNECTION_TIME:?} and is closed"),
    }
    shared.open.remove(id);
}

const TEXT: &str = "text/plain; charset=utf-8";

async fn respond(shared: &Shared, peer: IpAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let Shared { metrics, peers, scrapes, .. } = shared;
    let (now, is_scrape) = (Instant::now(), request.uri().path() == "/metrics");
    if !peers.take(peer, now) || (is_scrape && !scrapes.take(peer, now)) {
        metrics.count_rejected("rate");
        let mut response = answer(StatusCode::TOO_MANY_REQUESTS, TEXT, "too many requests\n");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
    }
    if !is_scrape {
        return answer(StatusCode::NOT_FOUND, TEXT, "here is /metrics; health has a port of its own\n");
    }
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = ExpositionFormat::accepted(&accept.collect::<Vec<_>>().join(","));
    match exposition(shared, format, now).await {
        Ok(text) => answer(StatusCode::OK, format.content_type(), text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

/// The text of all metrics: a new one, or the latest while too many are asked for.
async fn exposition(
    shared: &Shared,
    format: ExpositionFormat,
    now: Instant,
) -> Result<Bytes, prometheus::Error> {
    let Shared { metrics, writes, latest, .. } = shared;
    let kept = latest.borrow().get(&format).cloned();
    match kept {
        Some(text) if !writes.take(now) => Ok(text),
        Some(_) | None => {
            metrics.refresh().await;
            let text = Bytes::from(metrics.exposition(format)?);
            latest.borrow_mut().insert(format, text.clone());
            Ok(text)
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
