//! The live stream: the agent keeps recent reports and serves them on a Unix socket, as lines of JSON over HTTP, to `observe`,
//! `top` and `status`. The agent never waits for a reader; a slow reader loses lines and is told how many.

mod client;
mod query;
mod recent;
mod server;
mod socket;
mod status;

use std::path::PathBuf;

use hyper::header::HeaderName;

pub use client::{Client, ConnectError, Stream};
pub use query::{Moment, Query};
pub use recent::{Reader, Recent};
pub use server::LiveServer;
pub use socket::Socket;
pub use status::{Live, LossCount, Status, StatusScope, StatusSettings};

/// The version of the protocol on the socket. Both sides send theirs in [`VERSION_HEADER`].
const VERSION: &str = "1";

/// The header with [`VERSION`]: `egress-tracer-api: 1`.
const VERSION_HEADER: HeaderName = HeaderName::from_static("egress-tracer-api");

/// The header with the release, for messages: `egress-tracer-version: 0.1.0`.
const RELEASE_HEADER: HeaderName = HeaderName::from_static("egress-tracer-version");

const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The variable that names the agent's socket.
pub const SOCKET_VARIABLE: &str = "EGRESS_TRACER_SOCKET";

/// Where the agent listens by default.
pub const DEFAULT_SOCKET: &str = "/run/egress-tracer/agent.sock";

/// Where the node's agent listens.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct SocketArgs {
    /// The Unix socket of this node's agent
    #[arg(
        long,
        value_name = "PATH",
        env = SOCKET_VARIABLE,
        default_value = DEFAULT_SOCKET
    )]
    pub socket: PathBuf,
}
