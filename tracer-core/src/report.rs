//! The report on one request, which every sink prints. Its JSON is a contract (`"v":1`); unknown values are null.

mod compact;
mod detail;
mod evidence;
mod explanation;
mod gap;
mod diagram;
mod grid;
mod line_layout;
mod result;
mod style;
mod subject;
mod text;
mod table;
mod witness;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use compact_str::CompactString;
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Deserialize, Serialize};

use crate::{
    head::Form,
    mesh_profile::InterceptorKind,
    pod::Pod,
    verdict::{Payload, Reason, Verdict},
};

pub use compact::Compact;
pub use detail::MANIFEST_LINES;
pub(crate) use evidence::evidence;
pub(crate) use explanation::explanation;
pub use gap::{Gap, LossSource, Lost, Message};
pub use line_layout::{LineLayout, ascii_marks};
pub use style::Colors;
pub(crate) use subject::Subject;
pub use table::Table;
pub use text::{age, duration, ellipsize};
pub use witness::{Configuration, Testimony};

/// The format of times in reports: RFC 3339, UTC, microseconds.
static TIMES: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// A time in the format of reports.
pub fn rfc3339(time: Timestamp) -> String {
    // The printer reserves room for the longest time.
    let mut text = String::with_capacity("-009999-12-31T23:59:59.123456789Z".len());
    // Writing to a string cannot fail.
    let _ = TIMES.print_timestamp(&time, &mut text);
    text
}

/// Reports, oldest first. Each is boxed: it is large and passed on several times.
#[allow(clippy::vec_box, reason = "a report is moved more often than it is made")]
pub type Reports = Vec<Box<Report>>;

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// When the request was sent: RFC 3339, UTC, microseconds.
    pub time: String,
    /// The node it was seen on.
    pub node: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// The cause, where the verdict has several.
    pub reason: Option<Reason>,
    /// The sidecar's configuration is at fault, so that a person can fix it.
    pub flagged: bool,
    /// The app that sent the request.
    pub source: Source,
    /// The address that the app dialed.
    pub proxy: Endpoint,
    /// Whether the sidecar is the app's own (`outbound`) or the proxy's (`inbound`).
    pub direction: Direction,
    /// The interceptor in the path. Reports made before 0.1.0 call it `sidecar`.
    #[serde(alias = "sidecar")]
    pub interceptor: Option<Interceptor>,
    /// The request.
    pub connect: Connect,
    /// The answer. Null: there was none.
    pub reply: Option<Reply>,
    /// The program that made the answer, by its address. Null: there was no answer, or its origin is not known.
    #[serde(default)]
    pub answered_by: Option<Answerer>,
    /// The sidecar's upstream connection for this request. Null: none was seen.
    pub upstream: Option<Upstream>,
    /// The evidence for the verdict, one sentence each.
    pub evidence: Vec<String>,
    /// The verdict in one sentence, for a reader who does not know Envoy.
    pub explanation: String,
    /// What the sidecar's configuration says about the same request. Null: it was not read.
    #[serde(default)]
    pub configuration: Option<Configuration>,
    /// The sidecar's listener that took the connection, if its configuration was read.
    pub listener: Option<Listener>,
    /// The title of a fix, or the page that explains the verdict.
    pub fix: Option<String>,
    /// The manifest of that fix, if it was verified against the sidecar's configuration.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The hook family that captured it. Reports made before 0.1.0 call it `probes`.
    #[serde(alias = "probes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub family: CompactString,
    /// The connection was opened before the probes were attached.
    pub joined_late: bool,
}

/// The app that sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Source {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Pod name.
    pub pod: Option<String>,
    /// Container name.
    pub container: Option<String>,
    /// Workload name.
    pub workload: Option<String>,
    /// What kind of owner it has.
    #[serde(default)]
    pub kind: Option<SourceKind>,
    /// A sidecar was injected into its pod.
    #[serde(default)]
    pub injected: Option<bool>,
    /// The pod with its labels, for filters. Not in the JSON.
    #[serde(skip)]
    pub owner: Option<Arc<Pod>>,
    /// Process id on the node.
    pub pid: Option<u32>,
    /// Thread name.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub comm: Option<CompactString>,
    /// The app's address.
    pub ip: IpAddr,
    /// The app's port.
    pub port: u16,
}

/// The kind of owner of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A pod with a network of its own.
    Pod,
    /// A pod that shares the node's network.
    HostNetworkPod,
    /// The node itself.
    Host,
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Which sidecar intercepted the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The app's own.
    Outbound,
    /// The proxy's.
    Inbound,
}

/// The interceptor: the transparent proxy that accepted the app's connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interceptor {
    /// What it is.
    #[serde(default)]
    pub kind: InterceptorKind,
    /// The port that accepted the connection.
    pub port: u16,
    /// Its process id on the node.
    pub pid: Option<u32>,
    /// Its thread's name.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub comm: Option<CompactString>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connect {
    /// `connect`, or `absolute` for `GET http://host/`.
    #[serde(default)]
    pub form: Form,
    /// `host:port`, escaped.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub authority: CompactString,
    /// `1.0` or `1.1`. Empty: the first line is longer than the 512 captured bytes.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub http_version: CompactString,
    /// The `User-Agent` header, escaped.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub user_agent: Option<CompactString>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reply {
    /// The program that made it.
    pub from: Replier,
    /// Its status. Null: it is not HTTP.
    pub status: Option<u16>,
    /// The `Server` header, escaped.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub server: Option<CompactString>,
    /// Microseconds from the request to its first byte.
    pub after_us: u64,
}

/// The program that made an answer, by its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Answerer {
    /// Its address. Null for the interceptor.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// What it is to the app.
    pub is: AnswererKind,
}

/// What the program that made an answer is to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AnswererKind {
    /// The interceptor itself.
    Interceptor,
    /// The address that the app dialed.
    Proxy,
    /// Another address, to which the interceptor passed the bytes on: an endpoint of a Service, or a wrong one.
    Upstream,
}

/// The program that made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Replier {
    /// The sidecar itself.
    Sidecar,
    /// The proxy. The sidecar passed it on.
    Proxy,
    /// Unknown from what was captured.
    Unknown,
}

/// The sidecar's upstream connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Upstream {
    /// The address dialed.
    pub ip: IpAddr,
    /// The port dialed.
    pub port: u16,
    /// What it carried before the outcome.
    pub carried: Payload,
}

/// A listener and its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Listener {
    /// Envoy's name for it.
    pub name: String,
    /// The Kubernetes object that it comes from.
    pub because: Option<String>,
}

impl Report {
    /// The report as one line of JSON, without the line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // every field has a JSON form
    }

    /// Appends the report as one line of JSON, with the line end.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        append_line(self, to);
    }
}

/// Appends a value as one line of JSON, with the line end.
fn append_line(value: &impl Serialize, to: &mut Vec<u8>) {
    // Every field of a report has a JSON form, and writing to a vector cannot fail.
    let _ = serde_json::to_writer(&mut *to, value);
    to.push(b'\n');
}
