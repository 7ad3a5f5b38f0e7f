//! The reader's end: asks the agent of this node, and says in one sentence why there is no answer.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
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
use tokio::net::UnixStream;

use super::{Query, RELEASE, RELEASE_HEADER, Status, VERSION, VERSION_HEADER};
use tracer_core::escape::escape;
use tracer_core::report::Message;

/// A line is a report with its manifest; this is against a peer that is no agent.
const LONGEST_LINE: usize = 1 << 20;
const LONGEST_ANSWER: usize = 1 << 20;

/// The agent of this node, reached.
pub struct Client {
    path: PathBuf,
    sender: http1::SendRequest<Empty<Bytes>>,
}

/// Why there is no agent to ask.
pub enum Trouble {
    /// There is no socket, or no process listens on it.
    Absent,
    /// There is one, but.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Client {
    /// Reaches the agent at `path`, for as long as the current `LocalSet` runs.
    pub async fn connect(path: &Path) -> Result<Self, Trouble> {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Err(Trouble::Absent);
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let path = path.display();
                return Err(anyhow!(
                    "not allowed to use the agent's socket {path}: it is for root; run this as root"
                )
                .into());
            }
            Err(error) => {
                return Err(anyhow!(error)
                    .context(format!("cannot reach the agent at {}", path.display()))
                    .into());
            }
        };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("cannot speak HTTP with the agent")?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                log::debug!("the connection to the agent failed: {error}");
            }
        });
        Ok(Self { path: path.to_owned(), sender })
    }

    /// Sessions, as asked for.
    pub async fn sessions(mut self, query: &Query) -> anyhow::Result<Stream> {
        let response = self.get(&format!("/v1/sessions?{}", query.to_text())).await?;
        Ok(Stream { path: self.path, body: response.into_body(), buffer: BytesMut::new() })
    }

    /// How the agent is.
    pub async fn status(mut self) -> anyhow::Result<Status> {
        let response = self.get("/v1/status").await?;
        let body = text(response.into_body()).await?;
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
        let response = self
            .sender
            .send_request(request)
            .await
            .with_context(|| format!("no answer from the agent at {at}"))?;
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
        let sentence = text(response.into_body()).await?;
        bail!("the agent at {at} refuses: {}", escape(sentence.trim()))
    }
}

async fn text(body: Incoming) -> anyhow::Result<String> {
    let bytes = Limited::new(body, LONGEST_ANSWER).collect().await;
    let bytes = bytes.map_err(|error| anyhow!("the agent's answer broke off: {error}"))?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of an agent.
pub struct Stream {
    path: PathBuf,
    body: Incoming,
    buffer: BytesMut,
}

impl Stream {
    /// The next line, if it is here already.
    pub fn next_ready(&mut self) -> anyhow::Result<Option<Message>> {
        let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        let message = serde_json::from_slice(&line);
        message
            .map(Some)
            .with_context(|| format!("cannot read a line of the agent at {}", self.path.display()))
    }

    /// The next line; `None`: the agent has told all that was asked for. Nothing is lost where this is dropped half-way.
    pub async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.next_ready()? {
                return Ok(Some(message));
            }
            if self.buffer.len() > LONGEST_LINE {
                bail!("the agent at {} sends a line without end", self.path.display());
            }
            match self.body.frame().await {
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
