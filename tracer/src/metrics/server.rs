//! Serves `/metrics`, `/healthz` and `/readyz`, within bounds: connections, their age, header size and time, requests a
//! second. Whatever comes, a scraper that opens a connection and asks is answered.

mod connection_limit;
mod rate;

use std::{convert::Infallible, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, time::timeout};

use super::{Metrics, openmetrics::Format};
use connection_limit::Crowd;
use rate::Rate;

/// Scrapers keep one connection each; for one more, the one that was silent for longest is closed.
const CONNECTIONS: usize = 64;
const HEADER_BYTES: usize = 16 << 10;
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Timeout of a connection, for clients that do not read the response. A scraper connects again.
const CONNECTION_TIME: Duration = Duration::from_mins(5);
/// Expositions a second, and how many at once. Two Prometheus servers and a curious human need less.
const SCRAPES: (u32, u32) = (10, 20);
/// Requests of any kind a second, and how many at once.
const REQUESTS: (u32, u32) = (100, 200);

/// A bound port that does not answer yet.
pub struct Server {
    listener: TcpListener,
}

struct Limits {
    scrapes: Rate,
    requests: Rate,
}

impl Server {
    /// Takes the port.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot serve metrics at {address}; is another process there? Choose another --metrics-address")
        })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    #[cfg(test)]
    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }

    /// Answers from now on, for as long as the current `LocalSet` runs.
    pub fn spawn(self, metrics: Metrics) {
        tokio::task::spawn_local(self.serve(metrics));
    }

    async fn serve(self, metrics: Metrics) {
        let crowd = Rc::new(Crowd::new(CONNECTIONS));
        let limits = Rc::new(Limits {
            scrapes: Rate::new(SCRAPES.0, SCRAPES.1),
            requests: Rate::new(REQUESTS.0, REQUESTS.1),
        });
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: those in use are given back in time.
                    log::warn!("cannot accept a metrics connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if crowd.make_room() {
                metrics.count_rejected("connections");
            }
            let (member, metrics, limits) = (crowd.member(), metrics.clone(), Rc::clone(&limits));
            let (crowd, id) = (Rc::clone(&crowd), member);
            let ours = Rc::clone(&crowd);
            let task = tokio::task::spawn_local(async move {
                let service = service_fn(|request| {
                    ours.active(id);
                    let (metrics, limits) = (metrics.clone(), Rc::clone(&limits));
                    async move { Ok::<_, Infallible>(respond(&metrics, &limits, &request).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIME)
                    .max_buf_size(HEADER_BYTES)
                    .serve_connection(TokioIo::new(stream), service);
                match timeout(CONNECTION_TIME, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => log::debug!("a metrics connection failed: {error}"),
                    Err(_) => {
                        log::debug!("a metrics connection was open for {CONNECTION_TIME:?} and is closed");
                    }
                }
                ours.leave(id);
            });
            crowd.enter(id, task.abort_handle());
        }
    }
}

async fn respond(metrics: &Metrics, limits: &Limits, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !limits.requests.take() || (request.uri().path() == "/metrics" && !limits.scrapes.take()) {
        metrics.count_rejected("rate");
        let mut response = answer(StatusCode::TOO_MANY_REQUESTS, TEXT, "too many requests\n".to_owned());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
            metrics.refresh().await;
            match metrics.exposition(format) {
                Ok(text) => answer(StatusCode::OK, format.content_type(), text),
                Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        (&Method::GET | &Method::HEAD, "/healthz") => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") if metrics.is_ready() => {
            answer(StatusCode::OK, TEXT, "ready\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/readyz") => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "the kernel hooks are not attached yet\n".to_owned(),
        ),
        (&Method::GET | &Method::HEAD, _) => {
            answer(StatusCode::NOT_FOUND, TEXT, "here are /metrics, /healthz and /readyz\n".to_owned())
        }
        _ => answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned()),
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
