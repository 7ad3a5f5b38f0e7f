//! Serves `/metrics`, `/healthz` and `/readyz`. Connections, their age, the size and time of a request's head, and the rate
//! of requests are bounded, so that a scraper is answered whatever other clients do.

mod connection_limit;

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::NonZeroUsize,
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
    http_server::{accept_loop, connection},
    token_bucket::TokenBucket,
};
use connection_limit::ConnectionLimit;

/// The most open connections; a scraper keeps one.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
const HEADER_BYTES: usize = 16 << 10;
/// The longest life of a connection, against clients that do not read their answers. A scraper connects again.
const CONNECTION_TIME: Duration = Duration::from_mins(5);
/// Ten expositions a second. Two Prometheus servers and a person need less.
const SCRAPE_PERIOD: Duration = Duration::from_millis(100);
const SCRAPE_BURST: u32 = 20;
/// A hundred requests of any kind a second.
const REQUEST_PERIOD: Duration = Duration::from_millis(10);
const REQUEST_BURST: u32 = 200;

/// A bound port that is not served yet.
pub struct Server {
    listener: TcpListener,
}

/// What the connections of a server share.
struct Shared {
    metrics: Metrics,
    open: ConnectionLimit,
    scrapes: TokenBucket,
    requests: TokenBucket,
}

impl Server {
    /// Binds the port.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
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
        let now = Instant::now();
        let shared = Rc::new(Shared {
            metrics,
            open: ConnectionLimit::new(CONNECTIONS),
            scrapes: TokenBucket::new(SCRAPE_PERIOD, SCRAPE_BURST, now),
            requests: TokenBucket::new(REQUEST_PERIOD, REQUEST_BURST, now),
        });
        let accept = async || self.listener.accept().await.map(|(stream, _)| stream);
        let serve = |stream| {
            let id = shared.open.new_id();
            let task = tokio::task::spawn_local(serve_connection(stream, id, Rc::clone(&shared)));
            if shared.open.add(id, task.abort_handle()) {
                shared.metrics.count_rejected("connections");
            }
        };
        match accept_loop("the metrics port", accept, serve).await {}
    }
}

async fn serve_connection(stream: TcpStream, id: u64, shared: Rc<Shared>) {
    let service = service_fn(|request| {
        shared.open.touch(id);
        let shared = Rc::clone(&shared);
        async move { Ok::<_, Infallible>(respond(&shared, &request).await) }
    });
    let served = connection(HEADER_BYTES).serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a metrics connection failed: {error}"),
        Err(_) => log::debug!("a metrics connection was open for {CONNECTION_TIME:?} and is closed"),
    }
    shared.open.remove(id);
}

async fn respond(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let Shared { metrics, scrapes, requests, .. } = shared;
    let (now, path) = (Instant::now(), request.uri().path());
    if !requests.take(now) || (path == "/metrics" && !scrapes.take(now)) {
        metrics.count_rejected("rate");
        let mut response = answer(StatusCode::TOO_MANY_REQUESTS, TEXT, "too many requests\n".to_owned());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
    }
    match path {
        "/metrics" => {
            let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = ExpositionFormat::accepted(&accept.collect::<Vec<_>>().join(","));
            metrics.refresh().await;
            match metrics.exposition(format) {
                Ok(text) => answer(StatusCode::OK, format.content_type(), text),
                Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        "/healthz" => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" if metrics.is_ready() => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
        "/readyz" => {
            let text = "the kernel hooks are not attached yet\n".to_owned();
            answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
        }
        _ => answer(StatusCode::NOT_FOUND, TEXT, "here are /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
