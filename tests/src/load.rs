//! What the load generator (`src/bin/load.rs`) is told to do, and what it then tells. One JSON object each way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::place::Place;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_mins(3);
/// The line with which it says that what comes now is what is measured.
pub const WARM: &str = "warm";

/// One thing to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Listens until it is ended: what comes to `echo` goes back, for each 128 KiB that come to `sink` a
    /// byte goes back.
    Serve {
        /// Where.
        echo: SocketAddr,
        /// Where.
        sink: SocketAddr,
    },
    /// Through one tunnel: a hundred bytes there and back, again and again.
    RoundTrips(Tunnel),
    /// Through one tunnel: as many bytes as it takes, some blocks of them under way at once.
    Bulk(Tunnel),
    /// Tunnels, one after the other, each closed as soon as it is granted or refused.
    Connections(Tunnel),
    /// Connections that ask nothing of a proxy, one after the other: a request to a server, its answer, the end.
    Short(Tunnel),
    /// CONNECTs at a steady pace, and beside them ten times as many requests of other sorts, or none.
    Paced {
        /// The proxies, in turn.
        proxies: Vec<SocketAddr>,
        /// What they are asked for.
        authority: String,
        /// An echo, for the other requests: nine on a connection that stays, one on a connection of its own.
        other: Option<SocketAddr>,
        /// CONNECTs a second.
        rate: u32,
        /// CONNECTs in all.
        count: u32,
    },
}

/// A way to a server, and how long to use it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tunnel {
    /// The proxy, or the server itself.
    pub to: SocketAddr,
    /// What the proxy is asked for; none: there is no proxy.
    pub authority: Option<String>,
    /// How long.
    pub seconds: f64,
    /// Only every other moment, and another one in between.
    #[serde(default)]
    pub turns: Option<Turns>,
}

/// When it is one's turn: time, as `CLOCK_MONOTONIC` has it, is cut into turns of the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// How long one is, in ms.
    pub ms: u64,
    /// Those with odd numbers are one's own.
    pub odd: bool,
}

/// What came of one turn.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Turn {
    /// Its number.
    pub number: u64,
    /// Round trips, bytes, or connections a second.
    pub rate: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// Round trips, bytes, or connections.
    pub count: u64,
    /// How long they took.
    pub seconds: f64,
    /// Connections that came to nothing.
    pub failed: u64,
    /// Each turn, where they were taken in turns.
    #[serde(default)]
    pub turns: Vec<Turn>,
}

impl Done {
    /// A second.
    pub fn rate(&self) -> f64 {
        rate(self.count, self.seconds)
    }
}

/// So many in so long, a second.
#[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
pub fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// The load generator, where it was built. It has to be an optimised build, or it would be what is measured.
#[derive(Debug, Clone)]
pub struct Generator(pub PathBuf);

impl Generator {
    /// Starts it in a place of the lab, and returns when it is warm.
    pub fn start(&self, place: &Place, load: &Load) -> Result<Process> {
        let process = Process::spawn(place.command_at(&self.0)?, &serde_json::to_vec(load)?)?;
        process.wait_line("warmth", process.stdout(), PATIENCE, |line| (line == WARM).then_some(()))?;
        Ok(process)
    }

    /// Runs it as the app, from beginning to end.
    pub fn run(&self, lab: &Lab, load: &Load) -> Result<Done> {
        let process = self.start(lab.app(), load)?;
        let done = Self::done(&process)?;
        process.finish(PATIENCE)?;
        Ok(done)
    }

    /// Waits for what came of what was started. It still holds its connection.
    pub fn done(process: &Process) -> Result<Done> {
        process.wait_line("result", process.stdout(), PATIENCE, |line| serde_json::from_str(line).ok())
    }
}
