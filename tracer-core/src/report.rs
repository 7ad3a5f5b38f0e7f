//! The report on one request: what every sink prints. Its JSON is a contract (`"v":1`); what is unknown is null.

mod compact;
mod detail;
mod explanation;
mod gap;
mod diagram;
mod json;
mod style;
mod text;
mod table;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use compact_str::CompactString;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Deserialize, Serialize};

use crate::{
    pod::Pod,
    verdict::{Carried, Reason, Verdict},
};

pub use compact::Compact;
pub use detail::BEGINNING;
pub(crate) use explanation::{Subject, evidence, explanation};
pub use gap::{Gap, Loser, Lost, Message};
pub use style::Colors;
pub use table::Table;
pub use text::cut;

/// Times as reports have them: RFC 3339, UTC, microseconds.
static TIMES: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// A time as reports have it.
pub fn rfc3339(time: Timestamp) -> String {
    // Room for any: the printer asks for it beforehand.
    let mut text = String::with_capacity("-009999-12-31T23:59:59.123456789Z".len());
    // A string takes all that is written into it.
    let _ = TIMES.print_timestamp(&time, &mut text);
    text
}

/// Reports, oldest first; each in a box of its own, as it is large and goes through several hands.
#[allow(clippy::vec_box, reason = "they are moved more often than they are made")]
pub type Reports = Vec<Box<Report>>;

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// When the request was sent: RFC 3339, UTC, microseconds.
    pub time: String,
    /// The node it was seen on.
    pub node: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Option<Reason>,
    /// The sidecar's configuration is at fault, and someone can fix it.
    pub flagged: bool,
    /// Who asked.
    pub source: Source,
    /// What the app dialled.
    pub proxy: Endpoint,
    /// Whose sidecar: the app's own (`outbound`), or the proxy's (`inbound`).
    pub direction: Direction,
    /// The sidecar in the path.
    pub sidecar: Option<Sidecar>,
    /// What was asked.
    pub connect: Connect,
    /// The answer.
    pub reply: Option<Reply>,
    /// The sidecar's own connection for this request.
    pub upstream: Option<Upstream>,
    /// What the verdict rests on, one sentence each.
    pub evidence: Vec<String>,
    /// The verdict in one sentence, for a reader who does not know Envoy.
    pub explanation: String,
    /// The sidecar's listener that took the connection, where its configuration was read.
    pub listener: Option<Listener>,
    /// Where to read on, or what to apply.
    pub fix: Option<String>,
    /// The manifest of that fix, where the sidecar's configuration was read and a fix proven on it.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The family of probes that saw it.
    pub probes: CompactString,
    /// The connection was open before the probes were attached.
    pub joined_late: bool,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Pod name.
    pub pod: Option<String>,
    /// Container name.
    pub container: Option<String>,
    /// Workload name.
    pub workload: Option<String>,
    /// What runs it.
    #[serde(default)]
    pub kind: Option<Kind>,
    /// A sidecar was injected into its pod.
    #[serde(default)]
    pub injected: Option<bool>,
    /// The pod with all that is known of it, for filters; not written.
    #[serde(skip)]
    pub owner: Option<Arc<Pod>>,
    /// Process id on the node.
    pub pid: Option<u32>,
    /// Thread name.
    pub comm: Option<CompactString>,
    /// The app's address.
    pub ip: IpAddr,
    /// The app's port.
    pub port: u16,
}

/// What runs whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A pod with a network of its own.
    Pod,
    /// A pod that shares the node's network.
    HostNetworkPod,
    /// The node itself.
    Host,
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv4, or IPv6 without brackets.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), port: addr.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip, endpoint.port)
    }
}

/// Whose sidecar answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The app's own.
    Outbound,
    /// The proxy's.
    Inbound,
}

/// The sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The port that accepted the connection.
    pub port: u16,
    /// Its process id on the node.
    pub pid: Option<u32>,
    /// Its thread's name.
    pub comm: Option<CompactString>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// `host:port`, escaped.
    pub authority: CompactString,
    /// `1.0` or `1.1`; empty where the first line is longer than the 512 bytes that are captured.
    pub http_version: CompactString,
    /// Escaped.
    pub user_agent: Option<CompactString>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Who made it.
    pub from: Replier,
    /// Its status; null: not HTTP.
    pub status: Option<u16>,
    /// `Server`, escaped.
    pub server: Option<CompactString>,
    /// Microseconds from the request to its first byte.
    pub after_us: u64,
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replier {
    /// The sidecar itself.
    Sidecar,
    /// The proxy; the sidecar passed it on.
    Proxy,
    /// Cannot be told from what was seen.
    Unknown,
}

/// The sidecar's own connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Where to.
    pub ip: IpAddr,
    /// Where to.
    pub port: u16,
    /// What it carried before the outcome.
    pub carried: Carried,
}

/// A listener and why it is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Envoy's name for it.
    pub name: String,
    /// The object that made it so.
    pub because: Option<String>,
}

impl Report {
    /// One line of JSON, without the line end.
    pub fn to_json(&self) -> String {
        json::text(self).expect("a report has nothing that a line has not")
    }

    /// Writes that line behind what is there, with its line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        json::write(self, to).expect("a report has nothing that a line has not");
    }

    /// The page that explains this verdict.
    pub fn page(verdict: Verdict) -> String {
        ["docs/verdicts/", verdict.name(), ".md"].concat()
    }
}
