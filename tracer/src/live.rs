//! Live reports for readers: the agent keeps recent reports and serves them on a Unix socket as lines of JSON over HTTP, for
//! `observe`, `top` and `status`. A slow reader loses lines and is told how many; the agent never waits for a reader.

mod client;
mod query;
mod recent;
mod server;
mod socket;
mod status;

use std::path::PathBuf;

use hyper::header::HeaderName;

pub use client::{Client, Stream, Trouble};
pub use query::{Query, Since};
pub use recent::{Reader, Recent};
pub use server::Server;
pub use socket::Socket;
pub use status::{Live, LossCount, Scope, Status};

/// The version of what is spoken on the socket. Both sides tell theirs in [`VERSION_HEADER`].
const VERSION: &str = "1";

/// Carries [`VERSION`]: `egress-tracer-api: 1`.
const VERSION_HEADER: HeaderName = HeaderName::from_static("egress-tracer-api");

/// Carries the release, for people: `egress-tracer-version: 0.1.0`.
const RELEASE_HEADER: HeaderName = HeaderName::from_static("egress-tracer-version");

const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Where the agent of a node is reached.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Args {
    /// The Unix socket of this node's agent
    #[arg(
        long,
        value_name = "PATH",
        env = "EGRESS_TRACER_SOCKET",
        default_value = "/run/egress-tracer/agent.sock"
    )]
    pub socket: PathBuf,
}
