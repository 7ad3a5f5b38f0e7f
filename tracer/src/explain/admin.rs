//! Client of Envoy's admin port: two GET requests, bounded in size and time, that follow no redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracer_core::mesh_profile::DEFAULT;

/// The largest dump that is read, in bytes. A mesh of 5,000 services makes about 50 MB.
pub(super) const MAX_DUMP: u64 = 256 << 20;

/// Limit for a connection on the loopback device. A port that takes longer accepts nothing.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// Limit for a whole answer: Envoy writes some 100 MB a second, on its main thread.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// The whole configuration with endpoints: `/config_dump?include_eds`.
const CONFIG_DUMP: &str = "/config_dump?include_eds";

/// The versions of what xDS delivered; a few hundred bytes.
const VERSIONS: &str =
    "/stats?filter=%5E(listener_manager.lds%7Ccluster_manager.cds)%5C.(version%7Cupdate_success)%24";

const MAX_VERSIONS: u64 = 64 << 10;

/// Limit for the first byte of a small answer. A port that takes longer will not answer the large question either.
const SILENCE: Duration = Duration::from_secs(2);

/// A page that Envoy answers at once, whatever it says.
const READY: &str = "/ready";

/// Fetches the dump, in the calling thread's network namespace. Blocks for at most about 20 s, and for two against a port
/// that answers nothing.
pub(super) fn config_dump(port: u16) -> anyhow::Result<Vec<u8>> {
    block_on(async {
        is_answering(port).await?;
        get(port, CONFIG_DUMP, MAX_DUMP).await
    })
}

/// Fetches the versions of what is loaded, in the calling thread's network namespace: text that changes when they do.
pub(super) fn versions(port: u16) -> anyhow::Result<Vec<u8>> {
    block_on(async { get(port, VERSIONS, MAX_VERSIONS).await })
}

/// Fails where the port accepts a connection and answers nothing.
async fn is_answering(port: u16) -> anyhow::Result<()> {
    let (address, stream) = connect(port).await?;
    // What it answers, and whether that is HTTP, the next request tells.
    match timeout(SILENCE, exchange(stream, address, READY, MAX_VERSIONS)).await {
        Ok(_) => Ok(()),
        Err(_) => bail!(
            "http://{address} accepts a connection and answers nothing within {} s: is that the sidecar's admin port, and is \
             its Envoy alive? (--admin-port, default {})",
            SILENCE.as_secs(),
            DEFAULT.admin_port
        ),
    }
}

/// The versions and, if they differ from `known`, the dump, in the calling thread's network namespace. Both together take at
/// most `time`, and the dump at most `limit` bytes. `None`: the versions are known, and there are some.
pub(super) fn changed_dump(
    port: u16,
    known: Option<&[u8]>,
    limit: u64,
    time: Duration,
) -> anyhow::Result<(Vec<u8>, Option<Vec<u8>>)> {
    let ask = async {
        let versions = get(port, VERSIONS, MAX_VERSIONS).await.unwrap_or_default();
        if !versions.is_empty() && known == Some(&versions) {
            return Ok((versions, None));
        }
        let dump = get(port, CONFIG_DUMP, limit).await?;
        Ok((versions, Some(dump)))
    };
    block_on(async {
        timeout(time, ask).await.unwrap_or_else(|_| bail!("no whole answer within {} s", time.as_secs()))
    })
}

fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(task)
}

/// One GET of `path` from the admin port on either loopback address.
pub(super) async fn get(port: u16, path: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let (address, stream) = connect(port).await?;
    let answer = timeout(ANSWER_TIME, exchange(stream, address, path, limit)).await;
    let answer = answer.map_err(|_| anyhow!("no whole answer within {} s", ANSWER_TIME.as_secs()));
    answer.and_then(|answer| answer).with_context(|| {
        format!(
            "GET http://{address}{path} failed: is that the sidecar's admin port? (--admin-port, default {})",
            DEFAULT.admin_port
        )
    })
}

/// istiod binds the admin port to 127.0.0.1, in IPv6-only clusters to `::1`.
async fn connect(port: u16) -> anyhow::Result<(SocketAddr, TcpStream)> {
    let mut errors = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((address, stream)),
            Ok(Err(error)) => errors.push(format!("{address}: {error}")),
            Err(_) => errors.push(format!("{address}: accepts no connection")),
        }
    }
    bail!(
        "cannot reach the sidecar's admin port ({}): is there a sidecar in that namespace, and is its admin port {port}? \
         (--admin-port)",
        errors.join("; ")
    )
}

async fn exchange(stream: TcpStream, address: SocketAddr, path: &str, limit: u64) -> anyhow::Result<Vec<u8>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new())?;
    let ask = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        if status.is_redirection() {
            bail!(
                "it answered with a redirect ({status}), which Envoy's admin port never does; it is not followed"
            );
        }
        if !status.is_success() {
            bail!("it answered {status}");
        }
        let limit = usize::try_from(limit)?;
        let mut body = Limited::new(answer.into_body(), limit);
        // Frame by frame: a dump is large, and stands in memory once.
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    anyhow!("the answer is larger than {limit} bytes, the most that is read")
                } else {
                    anyhow!("the answer broke off: {error}")
                }
            })?;
            bytes.extend(frame.data_ref().into_iter().flatten());
        }
        Ok(bytes)
    };
    // The connection must be driven while the answer is read. It may end first: what it read is then still in the answer.
    let mut ask = std::pin::pin!(ask);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        ended = connection => match ended {
            Ok(()) => ask.await,
            Err(error) => ask.await.map_err(|_| error.into()),
        },
    }
}
