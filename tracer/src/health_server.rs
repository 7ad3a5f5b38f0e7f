//! Serves `/healthz` and `/readyz` on a port and a thread of their own: without a rate limit, and at once however busy the
//! agent is. What other clients do here or at the metrics port fails no health check.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::LocalSet, time::timeout};

use crate::http_server::{ConnectionLimit, accept_loop, connection, listen};

/// The most open connections, of 8 KiB each. A kubelet keeps one, for one request.
const CONNECTIONS: usize = 512;
/// The least that hyper takes.
const HEADER_BYTES: usize = 8 << 10;
/// The longest life of a connection.
const CONNECTION_TIME: Duration = Duration::from_secs(3);
/// An agent whose loop has not turned for this long does not work. One turn of a busy agent takes under a second.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// What the health port says about the agent.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    /// The latest turn of the agent's loop, in ms since `started`.
    latest_turn: AtomicU64,
    ready: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: Instant::now(), latest_turn: AtomicU64::default(), ready: AtomicBool::default() }
    }
}

impl Health {
    /// Notes that the agent's loop has turned.
    pub fn note_turn(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started).as_millis();
        self.latest_turn.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes that all hooks are attached.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// For how long the loop has not turned.
    fn idle(&self, now: Instant) -> Duration {
        let latest = Duration::from_millis(self.latest_turn.load(Ordering::Relaxed));
        now.saturating_duration_since(self.started).saturating_sub(latest)
    }

    fn answer(&self, path: &str, now: Instant) -> (StatusCode, String) {
        match path {
            "/healthz" if self.idle(now) < STUCK_AFTER => (StatusCode::OK, "ok\n".to_owned()),
            "/healthz" => {
                let text = format!("the agent's loop has not turned for {} s\n", self.idle(now).as_secs());
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ready\n".to_owned()),
            "/readyz" => {
                (StatusCode::SERVICE_UNAVAILABLE, "the kernel hooks are not attached yet\n".to_owned())
            }
            _ => (StatusCode::NOT_FOUND, "here are /healthz and /readyz\n".to_owned()),
        }
    }
}

/// A bound port that is not served yet.
pub struct HealthServer {
    listener: TcpListener,
}

impl HealthServer {
    /// Binds the port.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = listen(address).with_context(|| {
            format!(
                "cannot serve health at {address}; is another process there? Choose another --health-address"
            )
        })?;
        Ok(Self { listener })
    }

    /// Serves the port, on a new thread, until the process ends.
    pub fn spawn(self, health: Arc<Health>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the health port's runtime")?;
        let serve = move || LocalSet::new().block_on(&runtime, self.serve(health));
        let thread = std::thread::Builder::new().name("health".to_owned());
        thread.spawn(serve).context("cannot start the health port's thread")?;
        Ok(())
    }

    async fn serve(self, health: Arc<Health>) {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return log::error!("cannot serve health: {error}"),
        };
        let open = Rc::new(ConnectionLimit::new(CONNECTIONS));
        let accept = async || listener.accept().await;
        let serve = |(stream, from): (TcpStream, SocketAddr)| {
            let (id, peer): (u64, IpAddr) = (open.new_id(), from.ip().to_canonical());
            let (limit, health) = (Rc::clone(&open), Arc::clone(&health));
            let task = tokio::task::spawn_local(async move {
                serve_connection(stream, &health).await;
                limit.remove(id);
            });
            open.add(id, peer, task.abort_handle());
        };
        match accept_loop("the health port", accept, serve).await {}
    }
}

async fn serve_connection(stream: TcpStream, health: &Health) {
    let service = service_fn(|request: Request<Incoming>| {
        let (status, text) = health.answer(request.uri().path(), Instant::now());
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut connection = connection(HEADER_BYTES);
    let served = connection.keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection of the health port failed: {error}"),
        Err(_) => {
            log::debug!("a connection of the health port was open for {CONNECTION_TIME:?} and is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn served() -> (SocketAddr, Arc<Health>) {
        let server = HealthServer::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let (address, health) = (server.listener.local_addr().expect("an address"), Arc::default());
        server.spawn(Arc::clone(&health)).expect("a thread");
        (address, health)
    }

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    #[test]
    fn agent_is_ready_once_its_hooks_are_attached_and_unhealthy_when_its_loop_is_stuck() {
        let (address, health) = served();
        assert!(ask(address, "/healthz").starts_with("HTTP/1.1 200 "));
        assert!(ask(address, "/readyz").starts_with("HTTP/1.1 503 "));
        health.set_ready();
        assert!(ask(address, "/readyz").starts_with("HTTP/1.1 200 "));
        assert!(ask(address, "/metrics").starts_with("HTTP/1.1 404 "));
        let later = Instant::now() + STUCK_AFTER;
        assert_eq!(health.answer("/healthz", later).0, StatusCode::SERVICE_UNAVAILABLE);
        health.note_turn(later);
        assert_eq!(health.answer("/healthz", later).0, StatusCode::OK);
    }

    /// The kubelet waits for five seconds (`timeoutSeconds` in `deploy/base`). Half of the answers must come within one even
    /// where all processors are busy with other tests.
    #[test]
    fn health_is_answered_while_three_clients_flood_the_port() {
        let (address, _) = served();
        let is_over = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        // Half a request each; connections that the server closed make room for new ones.
                        let Ok(mut stream) = std::net::TcpStream::connect(address) else { continue };
                        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX-");
                        held.push(stream);
                        if held.len() > 600 {
                            held.clear();
                        }
                    }
                });
            }
            let checks = std::iter::repeat_with(|| check_from_elsewhere(address)).take(120);
            let times: Result<Vec<Duration>, String> = checks.collect();
            is_over.store(true, Ordering::Relaxed);
            times
        });
        let mut times = times.expect("each check is answered");
        times.sort();
        assert!(times[60] < Duration::from_secs(1), "{times:?}");
    }

    /// How long a health check takes.
    fn check_from_elsewhere(address: SocketAddr) -> Result<Duration, String> {
        let start = Instant::now();
        let mut stream = connect_from_elsewhere(address);
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let is_right = answer.starts_with("HTTP/1.1 200 ");
        is_right
            .then(|| start.elapsed())
            .ok_or_else(|| format!("{read:?} {answer:?} after {:?}", start.elapsed()))
    }

    /// A connection from 127.0.0.2, as the kubelet's address differs from a neighbor's.
    fn connect_from_elsewhere(address: SocketAddr) -> std::net::TcpStream {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("a loopback address");
            socket.connect(address).await.expect("a connection").into_std().expect("a stream")
        });
        stream.set_nonblocking(false).expect("a blocking stream");
        stream
    }
}
