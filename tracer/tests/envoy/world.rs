//! One generated configuration with one connection to it, what Envoy did and what the evaluator says, in the same
//! words. It compares; it neither generates nor runs.

use std::net::SocketAddr;

use super::{Envoy, Talk};
use serde_json::Value;
use tracer_mesh::{Arrival, ConnectionOutcome, Decision, Dump, decide};

/// Stands for the world's own port in its listeners and names.
pub(crate) const PORT: u16 = 4242;

/// A configuration and a connection.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Listeners, with [`PORT`] in place of the port.
    pub(crate) listeners: Value,
    pub(crate) to: SocketAddr,
    pub(crate) head: Vec<u8>,
    /// A field of the first listener that the evaluator does not know.
    pub(crate) unmodeled: Option<&'static str>,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) listener: Option<String>,
    pub(crate) chain: Option<String>,
    pub(crate) end: End,
}

/// What the evaluator says, in the words of an access log.
pub(crate) struct Said {
    pub(crate) seen: Seen,
    pub(crate) decision: Decision,
}

/// The end, as far as an access log and the other side tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Reply {
        status: u16,
        details: String,
        route: Option<String>,
    },
    /// Sent on, as TCP or as a request: whether the CONNECT was ended before does not show in the log.
    Sent {
        tcp: bool,
        cluster: String,
        route: Option<String>,
        /// The host that was dialed; of the evaluator, all that can be.
        hosts: Vec<String>,
        arrival: Arrival,
    },
    Closed,
    Nothing,
}

impl World {
    /// The listeners and the address on `port`.
    pub(crate) fn at(&self, port: u16) -> (Vec<Value>, SocketAddr) {
        let text = self.listeners.to_string().replace(&PORT.to_string(), &port.to_string());
        let listeners: Value = serde_json::from_str(&text).unwrap();
        (listeners.as_array().cloned().unwrap_or_default(), SocketAddr::new(self.to.ip(), port))
    }
}

/// What the evaluator says, or its error.
pub(crate) fn evaluated(dump: &Dump, to: SocketAddr, head: &[u8]) -> Result<Said, String> {
    let decision = decide(dump, to, head).map_err(|error| error.to_string())?;
    let arrival = if head.is_empty() { Arrival::Nothing } else { decision.arrival() };
    let Decision { listener, filter_chain: chain, route, cluster, outcome, status, details, hosts, .. } =
        decision.clone();
    let end = match outcome {
        ConnectionOutcome::LocalReply => {
            End::Reply { status: status.unwrap_or(0), details: details.unwrap_or_default(), route }
        }
        ConnectionOutcome::Tunnel | ConnectionOutcome::Elsewhere => {
            End::Sent { tcp: true, cluster: cluster.unwrap_or_default(), route: None, hosts, arrival }
        }
        ConnectionOutcome::Forward | ConnectionOutcome::Terminate => {
            End::Sent { tcp: false, cluster: cluster.unwrap_or_default(), route, hosts, arrival }
        }
        ConnectionOutcome::Close | ConnectionOutcome::Answered => End::Closed,
        ConnectionOutcome::Pending => End::Nothing,
    };
    Ok(Said { seen: Seen { listener, chain, end }.comparable(), decision })
}

/// What is wrong with what the evaluator says; `None` where it is right, or says that it is not certain.
pub(crate) fn fault(world: &World, envoy: &Seen, ours: &Result<Said, String>) -> Option<String> {
    let said = match ours {
        Err(error) => return Some(error.clone()),
        Ok(said) => said,
    };
    let Decision { certain, caveats, listener, filter_chain, .. } = &said.decision;
    if let Some(field) = world.unmodeled {
        let first = &world.listeners[0];
        let is_on_the_way = listener.as_deref() == first["name"].as_str()
            && filter_chain.as_deref() == Some("chain-0")
            && first["filter_chains"][0]["name"] == "chain-0";
        if is_on_the_way && (*certain || !caveats.iter().any(|caveat| caveat.contains(field))) {
            return Some(format!("{field} is not named: {caveats:?}"));
        }
    }
    (*certain && !said.seen.agrees(envoy)).then(|| format!("certain of {:?}", said.seen))
}

impl Seen {
    /// Whether `envoy` did what this says: of several hosts, one is dialed.
    fn agrees(&self, envoy: &Self) -> bool {
        let mut ours = self.clone();
        if let (End::Sent { hosts, .. }, End::Sent { hosts: dialed, .. }) = (&mut ours.end, &envoy.end)
            && dialed.iter().all(|host| hosts.contains(host))
        {
            hosts.clone_from(dialed);
        }
        ours == *envoy
    }
}

/// What the access log, the client and the other side say of one connection.
pub(crate) fn observed(envoy: &Envoy<'_>, head: &[u8], lines: &[Value], talk: &Talk) -> Seen {
    // Envoy did nothing while the client waited. What it logs when the client resets the connection is another matter:
    // then it may choose a chain for what it had left open.
    if talk.received.is_empty() && !talk.is_ended() {
        return Seen { listener: None, chain: None, end: End::Nothing };
    }
    let text = |line: &Value, key: &str| line[key].as_str().filter(|text| *text != "-").map(str::to_owned);
    let of_kind = |kind: &str| lines.iter().find(|line| line["kind"] == kind);
    let flags = |line: &Value| text(line, "flags").unwrap_or_default();
    let hosts = |line: &Value| text(line, "host").into_iter().collect::<Vec<_>>();
    let bytes = |line: &Value| {
        let address = |key: &str| text(line, key).and_then(|text| text.parse().ok());
        let bytes = address("from").zip(address("host")).and_then(|(from, to)| envoy.captured(from, to));
        bytes.unwrap_or_default()
    };
    // Every dial succeeds here, so that one fails is the end of a TLS handshake, of which the log has no address.
    let has_failed = |line: &Value| flags(line).split(',').any(|flag| flag == "UF");
    let arrival = |line: &Value| if has_failed(line) { Arrival::InTls } else { arrival(head, &bytes(line)) };
    let Some(line) = of_kind("http").or_else(|| of_kind("tcp")).or_else(|| of_kind("listener")) else {
        return Seen { listener: None, chain: None, end: End::Nothing };
    };
    let (listener, chain) = (text(line, "listener"), text(line, "chain"));
    let end = if line["kind"] == "http" {
        let status = line["status"].as_u64().unwrap_or(0);
        let details = text(line, "details").unwrap_or_default();
        let cluster = text(line, "cluster").unwrap_or_default();
        let route = text(line, "route");
        let sent = |cluster| {
            let (hosts, arrival) = (hosts(line), arrival(line));
            End::Sent { tcp: false, cluster, route: route.clone(), hosts, arrival }
        };
        let is_reset = details.starts_with("upstream_reset") && !details.contains("{overflow}");
        if details.starts_with("via_upstream") || is_reset {
            sent(cluster)
        } else if status == 0 || details.starts_with("downstream_remote_disconnect") {
            // The client gave up waiting: sent on if there was a cluster, undecided if not.
            if cluster.is_empty() { End::Nothing } else { sent(cluster) }
        } else {
            End::Reply { status: u16::try_from(status).unwrap(), details, route }
        }
    } else if line["kind"] == "tcp" {
        let flags = flags(line);
        if flags.split(',').any(|flag| matches!(flag, "UH" | "NC" | "UO")) {
            End::Closed
        } else {
            let cluster = text(line, "cluster").unwrap_or_default();
            // It dialed when the connection came, and another filter refused the first bytes.
            if !has_failed(line) && !head.is_empty() && has_nothing_of(head, &bytes(line)) {
                return Seen { listener, chain, end: End::Closed };
            }
            End::Sent { tcp: true, cluster, route: None, hosts: hosts(line), arrival: arrival(line) }
        }
    } else if flags(line).contains("NR") || talk.is_ended() {
        // A chain without its own line in the log: HTTP/2 that is none.
        End::Closed
    } else {
        End::Nothing
    };
    Seen { listener, chain, end }.comparable()
}

/// Whether nothing of the app's bytes came to the other side: not a byte, or a PROXY protocol header alone.
fn has_nothing_of(head: &[u8], bytes: &[u8]) -> bool {
    bytes.is_empty() || (bytes.starts_with(b"PROXY ") && bytes.ends_with(b"\r\n") && !bytes.ends_with(head))
}

/// How the first bytes came to the other side.
fn arrival(head: &[u8], bytes: &[u8]) -> Arrival {
    match bytes {
        [] => Arrival::Nothing,
        _ if bytes == head => Arrival::AsSent,
        [0x16, 3, ..] => Arrival::InTls,
        _ if bytes.starts_with(b"PROXY ") => Arrival::AfterProxyHeader,
        _ => Arrival::Rewritten,
    }
}

impl Seen {
    /// Leaves out what an access log does not have: of a connection with no end it has nothing at all, of a codec's
    /// own reply no route.
    fn comparable(mut self) -> Self {
        match &self.end {
            End::Nothing => (self.listener, self.chain) = (None, None),
            End::Closed | End::Reply { .. } | End::Sent { .. } => {}
        }
        self
    }
}

/// Every way to leave one thing out of a world: an element of a list or a member of an object.
pub(crate) fn smaller(world: &World) -> Vec<World> {
    let mut paths = Vec::new();
    collect(&world.listeners, &mut Vec::new(), &mut paths);
    // The largest parts first.
    paths.sort_by_key(|(path, size)| (std::cmp::Reverse(*size), path.len()));
    paths
        .into_iter()
        .filter_map(|(path, _)| {
            let mut listeners = world.listeners.clone();
            remove(&mut listeners, &path)?;
            Some(World { listeners, ..world.clone() })
        })
        .collect()
}

/// Members without which Envoy refuses a whole file, or nothing is seen.
const NEEDED: [&str; 30] = [
    "@type",
    "name",
    "address",
    "socket_address",
    "port_value",
    "filter_chains",
    "filters",
    "typed_config",
    "stat_prefix",
    "http_filters",
    "route_config",
    "virtual_hosts",
    "domains",
    "routes",
    "match",
    "route",
    "cluster",
    "status",
    "host_redirect",
    "input",
    "key",
    "value",
    "header",
    "upgrade_type",
    "access_log",
    "prefix",
    "path",
    "connect_matcher",
    "weighted_clusters",
    "cluster_header",
];

fn collect(value: &Value, path: &mut Vec<String>, into: &mut Vec<(Vec<String>, usize)>) {
    let parent = path.last().cloned().unwrap_or_default();
    let mut visit = |key: String, child: &Value, removable: bool| {
        path.push(key);
        if removable {
            into.push((path.clone(), child.to_string().len()));
        }
        collect(child, path, into);
        path.pop();
    };
    match value {
        Value::Array(items) => {
            let removable = parent != "http_filters" && (parent != "domains" || items.len() > 1);
            items.iter().enumerate().for_each(|(at, item)| visit(at.to_string(), item, removable));
        }
        // The log tells what happened; without it nothing is seen.
        Value::Object(members) => members
            .iter()
            .filter(|(key, _)| *key != "access_log")
            .for_each(|(key, child)| visit(key.clone(), child, !NEEDED.contains(&key.as_str()))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn remove(value: &mut Value, path: &[String]) -> Option<()> {
    let (last, parents) = path.split_last()?;
    let mut at = value;
    for key in parents {
        at = if at.is_array() { at.get_mut(key.parse::<usize>().ok()?)? } else { at.get_mut(key)? };
    }
    if let Some(items) = at.as_array_mut() {
        items.remove(last.parse().ok()?);
    } else {
        at.as_object_mut()?.remove(last)?;
    }
    Some(())
}
