//! The agent's end: HTTP on its socket. A reader's connection is served at the reader's pace, from the ring; it holds a
//! bounded buffer and no place in any queue.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{Live, Query, RELEASE, RELEASE_HEADER, Reader, Socket, VERSION, VERSION_HEADER};

/// Only root can connect, so this is against accidents.
const CONNECTIONS: usize = 64;
const HEADER_TIME: Duration = Duration::from_secs(5);
/// What hyper may buffer of what a reader has not taken yet.
const BUFFER: usize = 64 << 10;

/// A bound socket that does not answer yet.
pub struct Server {
    socket: Socket,
}

impl Server {
    /// Will answer on this socket.
    pub fn new(socket: Socket) -> Self {
        Self { socket }
    }

    /// Answers from now on, for as long as the current `LocalSet` runs.
    pub fn spawn(self, live: Live) {
        tokio::task::spawn_local(self.serve(live));
    }

    async fn serve(self, live: Live) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            match self.socket.listener.accept().await {
                Ok((stream, _)) => {
                    let (live, place) = (live.clone(), Arc::clone(&places).try_acquire_owned().ok());
                    tokio::task::spawn_local(converse(stream, live, place));
                }
                Err(error) => {
                    log::warn!("cannot accept a connection on the agent's socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: UnixStream, live: Live, place: Option<OwnedSemaphorePermit>) {
    let service = service_fn(|request| {
        let response =
            if place.is_some() { respond(&live, &request) } else { Err(CROWDED.to_owned().into()) };
        std::future::ready(Ok::<_, Infallible>(with_versions(response.unwrap_or_else(Refusal::response))))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        log::debug!("a reader's connection failed: {error}"); // it went away, most likely
    }
}

const CROWDED: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "too many are connected to this agent already; end some of them");

type Answer<B> = Response<Either<Full<Bytes>, B>>;

/// Why there is no answer: one sentence.
struct Refusal(StatusCode, String);

impl<T: Into<String>> From<(StatusCode, T)> for Refusal {
    fn from((status, sentence): (StatusCode, T)) -> Self {
        Self(status, sentence.into())
    }
}

impl Refusal {
    fn response<B: Body>(self) -> Answer<B> {
        let Self(status, sentence) = self;
        let mut response = full(format!("{sentence}\n"), "text/plain; charset=utf-8");
        *response.status_mut() = status;
        response
    }
}

fn respond(
    live: &Live,
    request: &Request<Incoming>,
) -> Result<Answer<impl Body<Data = Bytes, Error = Infallible> + use<>>, Refusal> {
    if let Some(version) = request.headers().get(VERSION_HEADER).filter(|version| *version != VERSION) {
        let theirs = version.to_str().unwrap_or("unknown");
        return Err((
            StatusCode::BAD_REQUEST,
            format!("this agent is release {RELEASE} and speaks version {VERSION}, not {theirs}"),
        )
            .into());
    }
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "only GET").into());
    }
    match request.uri().path() {
        "/v1/sessions" => {
            let query = Query::from_text(request.uri().query().unwrap_or_default())
                .map_err(|sentence| (StatusCode::BAD_REQUEST, sentence))?;
            let lines = stream::unfold(live.recent().reader(&query), |mut reader: Reader| async move {
                let lines = reader.read().await?;
                Some((Ok(Frame::data(lines)), reader))
            });
            let mut response = Response::new(Either::Right(StreamBody::new(lines)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
            Ok(response)
        }
        "/v1/status" => {
            let status = serde_json::to_string(&live.status())
                .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
            Ok(full(status + "\n", "application/json"))
        }
        _ => Err((StatusCode::NOT_FOUND, "here are /v1/sessions and /v1/status").into()),
    }
}

fn full<B: Body>(text: String, kind: &'static str) -> Answer<B> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn with_versions<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    headers.insert(RELEASE_HEADER, HeaderValue::from_static(RELEASE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
