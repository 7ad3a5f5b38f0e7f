//! The reader's side of the live stream: a client of the agent on this node.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use bytes::{Buf as _, BytesMut};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::{Query, RELEASE, RELEASE_HEADER, Status, VERSION, VERSION_HEADER};
use crate::files::MAX_LINE;
use tracer_core::escape::escape;
use tracer_core::report::{Message, Reports};

/// The longest answer that is no stream.
const MAX_ANSWER: usize = 1 << 20;

/// How long an agent may take to begin its answer. It answers from memory, so a slower one is stopped or hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection to the agent.
pub struct Client {
    path: PathBuf,
    /// The process that listens, where this process can see it.
    agent: Option<i32>,
    sender: http1::SendRequest<Empty<Bytes>>,
}

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No agent runs: the socket does not exist, or no process listens on it.
    #[error("no agent listens at {}", .0.display())]
    NoAgent(PathBuf),
    /// The socket belongs to root.
    #[error("not allowed to use the agent's socket {}: it is for root: use sudo", .0.display())]
    Forbidden(PathBuf),
    /// The socket cannot be connected for another reason.
    #[error("cannot reach the agent at {}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The peer does not speak HTTP.
    #[error("cannot speak HTTP with the agent")]
    Http(#[from] hyper::Error),
}

impl Client {
    /// Connects to the agent at `path`. The connection lives as long as the current `LocalSet` runs.
    pub async fn connect(path: &Path) -> Result<Self, ConnectError> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let (path, kind) = (path.to_owned(), source.kind());
            if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                ConnectError::NoAgent(path)
            } else if kind == ErrorKind::PermissionDenied {
                ConnectError::Forbidden(path)
            } else {
                ConnectError::Unreachable { path, source }
            }
        })?;
        // The credentials of a listening socket are those of the process that called listen(2): unix(7), SO_PEERCRED.
        let agent = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                log::debug!("the connection to the agent failed: {error}");
            }
        });
        Ok(Self { path: path.to_owned(), agent, sender })
    }

    /// The sessions of a query.
    pub async fn sessions(mut self, query: &Query) -> anyhow::Result<Stream> {
        let response = self.get(&format!("/v1/sessions?{}", query.to_text())).await?;
        Ok(Stream {
            silence: (!query.follows()).then(|| self.silence()),
            path: self.path,
            body: response.into_body(),
            buffer: BytesMut::new(),
            is_too_long: false,
        })
    }

    /// The last reports that the agent has kept, at most so many.
    pub async fn kept(self, most: u64) -> anyhow::Result<Reports> {
        let mut stream = self.sessions(&Query { last: Some(most), ..Query::default() }).await?;
        let mut reports = Reports::new();
        while let Some(message) = stream.next().await? {
            if let Message::Report(report) = message {
                reports.push(report);
            }
        }
        Ok(reports)
    }

    /// The status of the agent.
    pub async fn status(mut self) -> anyhow::Result<Status> {
        let response = self.get("/v1/status").await?;
        let body = timeout(PATIENCE, text(response.into_body())).await;
        let body = body.unwrap_or_else(|_| bail!("{}", self.silence()))?;
        serde_json::from_str(&body)
            .with_context(|| format!("cannot read the status from {}", self.path.display()))
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path)
            .header("host", "agent")
            .header(VERSION_HEADER, VERSION)
            .header(RELEASE_HEADER, RELEASE)
            .body(Empty::new())?;
        let at = self.path.display();
        let response = match timeout(PATIENCE, self.sender.send_request(request)).await {
            Ok(response) => response.with_context(|| format!("no answer from the agent at {at}"))?,
            Err(_) => bail!("{}", self.silence()),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(escape);
        match header(VERSION_HEADER) {
            Some(version) if version == VERSION => {}
            Some(version) => bail!(
                "the agent at {at} is release {} and speaks version {version}; this egress-tracer is release {RELEASE} \
                 and speaks version {VERSION}: use the agent's release, or --standalone",
                header(RELEASE_HEADER).unwrap_or_default()
            ),
            None => bail!("what answers at {at} is no agent of egress-tracer; choose another --socket"),
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let sentence = timeout(PATIENCE, text(response.into_body())).await;
        let sentence = sentence.unwrap_or_else(|_| bail!("{}", self.silence()))?;
        bail!("the agent at {at} refuses: {}", escape(sentence.trim()))
    }

    /// A sentence on an agent that does not answer.
    fn silence(&self) -> String {
        let (who, why) = match self.agent {
            Some(pid) if is_stopped(pid) => {
                (format!(" (process {pid})"), "it is stopped (SIGSTOP); kill -CONT continues it")
            }
            Some(pid) => (format!(" (process {pid})"), "it hangs, or the node is overloaded; see its log"),
            None => (String::new(), "it is stopped or hangs; see its log"),
        };
        format!(
            "the agent at {}{who} accepts the connection and answers nothing within {} s: {why}; `observe` and `top` go on \
             without it with --standalone",
            self.path.display(),
            PATIENCE.as_secs()
        )
    }
}

/// Whether a signal stopped the process: state `T` in /proc/PID/stat, after the name in parentheses (`proc_pid_stat(5)`).
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

async fn text(body: Incoming) -> anyhow::Result<String> {
    let bytes = Limited::new(body, MAX_ANSWER).collect().await;
    let bytes = bytes.map_err(|error| anyhow!("the agent's answer broke off: {error}"))?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A stream of lines from an agent.
pub struct Stream {
    path: PathBuf,
    body: Incoming,
    buffer: BytesMut,
    /// The rest of the current line is dropped.
    is_too_long: bool,
    /// What to say if the agent stops in the middle; `None`: the stream waits for new reports.
    silence: Option<String>,
}

impl Stream {
    /// The next line, if it was received already.
    pub fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        let Some(mut line) = self.next_line() else { return Ok(None) };
        if std::mem::take(&mut self.is_too_long) {
            match self.next_line() {
                Some(next) => line = next,
                None => return Ok(None),
            }
        }
        let message = serde_json::from_slice(&line);
        message
            .map(Some)
            .with_context(|| format!("cannot read a line of the agent at {}", self.path.display()))
    }

    fn next_line(&mut self) -> Option<BytesMut> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        Some(line)
    }

    /// The next line; `None`: the query has no more. Cancel safe.
    pub async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.next_ready()? {
                return Ok(Some(message));
            }
            if self.buffer.len() > MAX_LINE {
                // One session that cannot be shown must not end the stream of all others.
                log::warn!("the agent at {} sent a line of more than {MAX_LINE} bytes", self.path.display());
                self.is_too_long = true;
                self.buffer.clear();
            }
            let frame = match &self.silence {
                Some(silence) => match timeout(PATIENCE, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => bail!("{silence}"),
                },
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => bail!("the agent at {} has ended", self.path.display()),
                None => return Ok(None),
            }
        }
    }
}
