//! The agent's side of the live stream: HTTP on a Unix socket. A connection reads the ring of recent lines at the pace of its
//! reader, and holds only a bounded buffer.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{Live, Query, RELEASE, RELEASE_HEADER, Reader, Socket, VERSION, VERSION_HEADER};
use crate::http_server::{accept_loop, connection};

/// The most connections. Only root can connect, so this is against accidents.
const CONNECTIONS: usize = 64;
/// The most bytes that hyper buffers for a slow reader.
const BUFFER: usize = 64 << 10;

/// A bound socket that is not served yet.
pub struct LiveServer {
    socket: Socket,
}

impl LiveServer {
    /// A server for this socket.
    pub fn new(socket: Socket) -> Self {
        Self { socket }
    }

    /// Serves the socket as long as the current `LocalSet` runs.
    pub fn spawn(self, live: Live) {
        tokio::task::spawn_local(self.serve(live));
    }

    async fn serve(self, live: Live) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let accept = async || self.socket.listener.accept().await.map(|(stream, _)| stream);
        let serve = |stream| {
            let permit = Arc::clone(&permits).try_acquire_owned().ok();
            tokio::task::spawn_local(serve_connection(stream, live.clone(), permit));
        };
        match accept_loop("the agent's socket", accept, serve).await {}
    }
}

/// Without a permit, the connection gets only a refusal.
async fn serve_connection(stream: UnixStream, live: Live, permit: Option<OwnedSemaphorePermit>) {
    let service = service_fn(|request| {
        let response = if permit.is_some() { respond(&live, &request) } else { Err(TOO_MANY.into()) };
        std::future::ready(Ok::<_, Infallible>(with_versions(response.unwrap_or_else(Refusal::response))))
    });
    if let Err(error) = connection(BUFFER).serve_connection(TokioIo::new(stream), service).await {
        log::debug!("a reader's connection failed: {error}"); // most likely the reader closed it
    }
}

const TOO_MANY: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "too many are connected to this agent already; end some of them");

type HttpResponse<B> = Response<Either<Full<Bytes>, B>>;

/// An error response: status and one sentence.
struct Refusal(StatusCode, String);

impl<T: Into<String>> From<(StatusCode, T)> for Refusal {
    fn from((status, sentence): (StatusCode, T)) -> Self {
        Self(status, sentence.into())
    }
}

impl Refusal {
    fn response<B: Body>(self) -> HttpResponse<B> {
        let Self(status, sentence) = self;
        let mut response = full(format!("{sentence}\n"), "text/plain; charset=utf-8");
        *response.status_mut() = status;
        response
    }
}

fn respond(
    live: &Live,
    request: &Request<Incoming>,
) -> Result<HttpResponse<impl Body<Data = Bytes, Error = Infallible> + use<>>, Refusal> {
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

fn full<B: Body>(text: String, kind: &'static str) -> HttpResponse<B> {
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
