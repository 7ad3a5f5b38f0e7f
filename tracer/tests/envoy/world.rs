//! One generated configuration with one connection to it, what Envoy did and what the evaluator says, in the same
//! words. It compares; it neither generates nor runs.

use std::net::SocketAddr;

use super::Talk;
use serde_json::Value;
use tracer_mesh::{Decision, Dump, Outcome, decide};

/// Stands for the world's own port in its listeners and names.
pub(crate) const PORT: u16 = 4242;

/// A configuration and a connection.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Listeners, with [`PORT`] in place of the port.
    pub(crate) listeners: Value,
    pub(crate) to: SocketAddr,
    pub(crate) head: Vec<u8>,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) listener: Option<String>,
    pub(crate) chain: Option<String>,
    pub(crate) end: End,
}

/// The end, as far as an access log tells.
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
pub(crate) fn evaluated(dump: &Dump, to: SocketAddr, head: &[u8]) -> Result<Seen, String> {
    let decision = decide(dump, to, head).map_err(|error| error.to_string())?;
    let Decision { listener, filter_chain: chain, route, cluster, outcome, status, details, .. } = decision;
    let end = match outcome {
        Outcome::LocalReply => {
            End::Reply { status: status.unwrap_or(0), details: details.unwrap_or_default(), route }
        }
        Outcome::Tunnel | Outcome::Elsewhere => {
            End::Sent { tcp: true, cluster: cluster.unwrap_or_default(), route: None }
        }
        Outcome::Forward | Outcome::Terminate => {
            End::Sent { tcp: false, cluster: cluster.unwrap_or_default(), route }
        }
        Outcome::Close | Outcome::Answered => End::Closed,
        Outcome::Pending => End::Nothing,
    };
    Ok(Seen { listener, chain, end }.comparable())
}

/// What the access log and the client say of one connection.
pub(crate) fn observed(lines: &[Value], talk: &Talk) -> Seen {
    // Envoy did nothing while the client waited. What it logs when the client resets the connection is another matter:
    // then it may choose a chain for what it had left open.
    if talk.received.is_empty() && !talk.is_ended() {
        return Seen { listener: None, chain: None, end: End::Nothing };
    }
    let text = |line: &Value, key: &str| line[key].as_str().filter(|text| *text != "-").map(str::to_owned);
    let of_kind = |kind: &str| lines.iter().find(|line| line["kind"] == kind);
    let flags = |line: &Value| text(line, "flags").unwrap_or_default();
    let Some(line) = of_kind("http").or_else(|| of_kind("tcp")).or_else(|| of_kind("listener")) else {
        return Seen { listener: None, chain: None, end: End::Nothing };
    };
    let (listener, chain) = (text(line, "listener"), text(line, "chain"));
    let end = if line["kind"] == "http" {
        let status = line["status"].as_u64().unwrap_or(0);
        let details = text(line, "details").unwrap_or_default();
        let cluster = text(line, "cluster").unwrap_or_default();
        let route = text(line, "route");
        if details.starts_with("via_upstream") || details.starts_with("upstream_reset") {
            End::Sent { tcp: false, cluster, route }
        } else if status == 0 || details.starts_with("downstream_remote_disconnect") {
            // The client gave up waiting: sent on if there was a cluster, undecided if not.
            if cluster.is_empty() { End::Nothing } else { End::Sent { tcp: false, cluster, route } }
        } else {
            End::Reply { status: u16::try_from(status).unwrap(), details, route }
        }
    } else if line["kind"] == "tcp" {
        let flags = flags(line);
        if flags.split(',').any(|flag| matches!(flag, "UH" | "NC")) {
            End::Closed
        } else {
            End::Sent { tcp: true, cluster: text(line, "cluster").unwrap_or_default(), route: None }
        }
    } else if flags(line).contains("NR") || talk.is_ended() {
        // A chain without its own line in the log: HTTP/2 that is none.
        End::Closed
    } else {
        End::Nothing
    };
    Seen { listener, chain, end }.comparable()
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

/// Members that a configuration can do without; Envoy refuses a whole file for the lack of some others.
const OPTIONAL: [&str; 24] = [
    "default_filter_chain",
    "destination_port",
    "prefix_ranges",
    "server_names",
    "transport_protocol",
    "application_protocols",
    "source_type",
    "upgrade_configs",
    "http_protocol_options",
    "accept_http_10",
    "default_host_for_http_10",
    "allow_absolute_url",
    "codec_type",
    "headers",
    "enabled",
    "connect_config",
    "ignore_port_in_host_matching",
    "cluster_not_found_response_code",
    "timeout",
    "ipv4_compat",
    "response_code",
    "bind_to_port",
    "continue_on_listener_filters_timeout",
    "validate_clusters",
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
            .for_each(|(key, child)| visit(key.clone(), child, OPTIONAL.contains(&key.as_str()))),
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
