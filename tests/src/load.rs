//! The input and output of the load generator (`src/bin/load.rs`): one JSON object each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::place::Place;
use crate::process::Process;

const TIMEOUT: Duration = Duration::from_mins(3);
/// The line that it prints when the measured part begins.
pub const WARM: &str = "warm";

/// What the load generator does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Serves until it is ended: returns what arrives at `echo`, and one byte for each 128 KiB that arrive at `sink`.
    Serve {
        /// Listening address.
        echo: SocketAddr,
        /// Listening address.
        sink: SocketAddr,
    },
    /// Round trips of a hundred bytes through one tunnel.
    RoundTrips(Tunnel),
    /// Bulk data through one tunnel, with several blocks in flight.
    Bulk(Tunnel),
    /// One tunnel after the other, each closed as soon as it is granted or refused.
    Connections(Tunnel),
    /// One connection after the other without a CONNECT: a request to a server, its answer, the end.
    Short(Tunnel),
    /// CONNECTs at a steady rate, with ten times as many other requests beside them, or none.
    Paced {
        /// The proxies, in turn.
        proxies: Vec<SocketAddr>,
        /// The authority to CONNECT to.
        authority: String,
        /// An echo server for the other requests: nine on a persistent connection, one on a new connection.
        other: Option<SocketAddr>,
        /// CONNECTs per second.
        rate: u32,
        /// CONNECTs in total.
        count: u32,
    },
}

/// A path to a server, and how long to use it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tunnel {
    /// The proxy, or the server itself.
    pub to: SocketAddr,
    /// The authority to CONNECT to; `None`: there is no proxy.
    pub authority: Option<String>,
    /// Seconds.
    pub seconds: f64,
    /// Work only in these turns.
    #[serde(default)]
    pub turns: Option<Turns>,
}

/// When to work: `CLOCK_MONOTONIC` is divided into turns of equal length, and two generators take every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Length of a turn in ms.
    pub ms: u64,
    /// Work in the turns with odd numbers.
    pub odd: bool,
}

/// The result of one turn.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Turn {
    /// The turn's number.
    pub number: u64,
    /// Round trips, bytes, or connections per second.
    pub rate: f64,
}

/// The result of a load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadResult {
    /// Round trips, bytes, or connections.
    pub count: u64,
    /// Seconds.
    pub seconds: f64,
    /// Connections that failed.
    pub failed: u64,
    /// The result of each turn, where the load was divided into turns.
    #[serde(default)]
    pub turns: Vec<Turn>,
}

impl LoadResult {
    /// Round trips, bytes, or connections per second.
    pub fn rate(&self) -> f64 {
        rate(self.count, self.seconds)
    }
}

/// A count per second.
#[expect(clippy::cast_precision_loss, reason = "a rate is no exact number")]
pub fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Path of the load generator. It must be an optimized build, or the generator itself is what is measured.
#[derive(Debug, Clone)]
pub struct LoadGenerator(pub PathBuf);

impl LoadGenerator {
    /// Starts the generator at `place`. Returns when the measured part begins.
    pub fn start(&self, place: &Place, load: &Load) -> Result<Process> {
        let process = Process::spawn(place.command_at(&self.0)?, &serde_json::to_vec(load)?)?;
        process.wait_line("warmth", process.stdout(), TIMEOUT, |line| (line == WARM).then_some(()))?;
        Ok(process)
    }

    /// Runs the generator as the app to its end.
    pub fn run(&self, lab: &Lab, load: &Load) -> Result<LoadResult> {
        let process = self.start(lab.app(), load)?;
        let done = Self::done(&process)?;
        process.finish(TIMEOUT)?;
        Ok(done)
    }

    /// Waits for the result. The generator still holds its connection.
    pub fn done(process: &Process) -> Result<LoadResult> {
        process.wait_line("result", process.stdout(), TIMEOUT, |line| serde_json::from_str(line).ok())
    }
}
