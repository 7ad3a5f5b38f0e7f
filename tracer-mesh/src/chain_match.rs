//! Which filter chain of a listener takes a connection. The rules are Envoy's, level by level in a fixed order: each
//! level picks one branch, later levels see only the chains of that branch, and nothing backtracks.
//!
//! Source: envoy `source/common/listener_manager/filter_chain_manager_impl.cc`,
//! `FilterChainManagerImpl::findFilterChain` and the functions it calls.

use std::net::{IpAddr, SocketAddr};

use super::json::Node;
use super::known_fields;

/// envoy.config.listener.v3.FilterChainMatch.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChainMatch {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<Prefix>,
    /// In lower case; `*.suffix` for a wildcard.
    pub server_names: Vec<String>,
    pub transport_protocol: Option<String>,
    pub application_protocols: Vec<String>,
    pub direct_source_prefix_ranges: Vec<Prefix>,
    /// `ANY`, `SAME_IP_OR_LOOPBACK` or `EXTERNAL`.
    pub source_type: String,
    pub source_prefix_ranges: Vec<Prefix>,
    pub source_ports: Vec<u16>,
    /// Fields that are set and not understood.
    pub unread: Vec<String>,
}

/// A CIDR block, its host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    network: IpAddr,
    length: u8,
}

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Debug)]
pub(crate) struct Connection<'a> {
    pub destination: SocketAddr,
    /// Where the app dialed from; `None` if it is not known, then rules on the source match nothing but "any".
    pub source: Option<SocketAddr>,
    pub server_name: &'a str,
    pub transport: &'a str,
    pub applications: &'a [String],
}

impl ChainMatch {
    pub(crate) fn read(node: Node<'_>) -> Self {
        Self {
            destination_port: node.field("destination_port").port().filter(|port| *port != 0),
            prefix_ranges: prefixes(node.field("prefix_ranges")),
            server_names: node.field("server_names").texts().iter().map(|n| n.to_ascii_lowercase()).collect(),
            transport_protocol: node.field("transport_protocol").text().map(str::to_owned),
            application_protocols: node.field("application_protocols").texts(),
            direct_source_prefix_ranges: prefixes(node.field("direct_source_prefix_ranges")),
            source_type: node.field("source_type").text().unwrap_or("ANY").to_owned(),
            source_prefix_ranges: prefixes(node.field("source_prefix_ranges")),
            source_ports: node.field("source_ports").items().filter_map(Node::port).collect(),
            unread: known_fields::CHAIN_MATCH.unread(node),
        }
    }
}

fn prefixes(list: Node<'_>) -> Vec<Prefix> {
    let prefix = |range: Node<'_>| {
        let ip = range.field("address_prefix").str()?.parse().ok()?;
        // Protobuf leaves zeros out: an absent prefix_len is zero.
        let length = range.field("prefix_len").integer().unwrap_or(0);
        Some(Prefix::new(ip, u8::try_from(length).ok()?))
    };
    list.items().filter_map(prefix).collect()
}

impl Prefix {
    pub(crate) fn new(ip: IpAddr, length: u8) -> Self {
        match ip {
            IpAddr::V4(v4) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { network: IpAddr::V4((v4.to_bits() & mask).into()), length }
            }
            IpAddr::V6(v6) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { network: IpAddr::V6((v6.to_bits() & mask).into()), length }
            }
        }
    }

    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.network.is_ipv4() == ip.is_ipv4() && Self::new(ip, self.length).network == self.network
    }
}

/// The chain that a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub index: usize,
    /// One chain names the empty prefix and another names none. Envoy keeps both in a hash map, so which one it takes
    /// differs from start to start.
    pub ambiguous: bool,
}

/// The index of the match in `matches` that takes `connection`; `None` where no branch leads to one, which is when
/// Envoy uses the listener's default chain.
pub(crate) fn find<'c>(
    matches: impl Iterator<Item = &'c ChainMatch>,
    connection: &Connection<'_>,
) -> Option<Found> {
    let chains = matches.enumerate().map(|(index, matches)| Candidate { index, matches }).collect();
    let chains = by_destination_port(chains, connection.destination.port());
    let chains = by_prefix(chains, Some(connection.destination.ip()), |m| &m.prefix_ranges);
    let ambiguous = chains.iter().any(|chain| chain.matches.prefix_ranges.is_empty())
        && chains.iter().any(|chain| !chain.matches.prefix_ranges.is_empty());
    let chains = by_server_name(chains, connection.server_name);
    let chains = by_transport(chains, connection.transport);
    let chains = by_application(chains, connection.applications);
    let source = connection.source.map(|source| source.ip());
    let chains = by_prefix(chains, source, |m| &m.direct_source_prefix_ranges);
    let chains = by_source_type(chains, connection);
    let chains = by_prefix(chains, source, |m| &m.source_prefix_ranges);
    let chains = by_source_port(chains, connection.source.map(|source| source.port()));
    chains.first().map(|chain| Found { index: chain.index, ambiguous })
}

/// A chain that is still in the running: its place in the listener, and what it matches.
#[derive(Clone, Copy)]
struct Candidate<'c> {
    index: usize,
    matches: &'c ChainMatch,
}

type Chains<'c> = Vec<Candidate<'c>>;

/// `findFilterChain`: where any chain names this very port only those go on, even if none of them matches later.
fn by_destination_port(chains: Chains<'_>, port: u16) -> Chains<'_> {
    prefer(chains, |m| m.destination_port == Some(port), |m| m.destination_port.is_none())
}

/// `findFilterChainForDestinationIP` and its siblings for the source: a longest prefix match in an `LcTrie`.
/// A chain without ranges stands for 0.0.0.0/0 and `::/0`.
fn by_prefix(
    chains: Chains<'_>,
    ip: Option<IpAddr>,
    ranges: impl Fn(&ChainMatch) -> &Vec<Prefix>,
) -> Chains<'_> {
    let longest = |chain: &Candidate<'_>| -> Option<u8> {
        let ranges = ranges(chain.matches);
        if ranges.is_empty() {
            return Some(0);
        }
        let ip = ip?;
        ranges.iter().filter(|range| range.contains(ip)).map(|range| range.length).max()
    };
    let Some(winner) = chains.iter().filter_map(longest).max() else { return Vec::new() };
    // Two ranges of one length that both contain the address are the same range: the branch is one.
    let has_winner = |chain: &Candidate<'_>| {
        let ranges = ranges(chain.matches);
        (ranges.is_empty() && winner == 0)
            || ranges.iter().any(|range| range.length == winner && ip.is_some_and(|ip| range.contains(ip)))
    };
    chains.into_iter().filter(has_winner).collect()
}

/// `findFilterChainForServerName`: the exact name, then `*.` suffixes from the longest, then no name.
fn by_server_name<'c>(chains: Chains<'c>, server_name: &str) -> Chains<'c> {
    let with = |name: &str| -> Chains<'c> {
        chains.iter().copied().filter(|c| c.matches.server_names.iter().any(|n| n == name)).collect()
    };
    if !server_name.is_empty() {
        let exact = with(server_name);
        if !exact.is_empty() {
            return exact;
        }
        let dots = server_name.char_indices().skip(1).filter(|(_, character)| *character == '.');
        for (dot, _) in dots {
            let suffix = server_name.get(dot..).unwrap_or_default();
            let wildcard = if suffix.len() > 1 { with(&format!("*{suffix}")) } else { Vec::new() };
            if !wildcard.is_empty() {
                return wildcard;
            }
        }
    }
    chains.into_iter().filter(|chain| chain.matches.server_names.is_empty()).collect()
}

/// `findFilterChainForTransportProtocol`.
fn by_transport<'c>(chains: Chains<'c>, transport: &str) -> Chains<'c> {
    prefer(chains, |m| m.transport_protocol.as_deref() == Some(transport), |m| m.transport_protocol.is_none())
}

/// `findFilterChainForApplicationProtocols`: the first detected protocol that any chain lists decides.
fn by_application<'c>(chains: Chains<'c>, applications: &[String]) -> Chains<'c> {
    for application in applications {
        let listed: Chains<'c> = chains
            .iter()
            .copied()
            .filter(|chain| chain.matches.application_protocols.contains(application))
            .collect();
        if !listed.is_empty() {
            return listed;
        }
    }
    chains.into_iter().filter(|chain| chain.matches.application_protocols.is_empty()).collect()
}

/// `findFilterChainForSourceTypes`.
fn by_source_type<'c>(chains: Chains<'c>, connection: &Connection<'_>) -> Chains<'c> {
    // Network::Utility::isSameIpOrLoopback.
    let is_local = connection
        .source
        .is_some_and(|source| source.ip().is_loopback() || source.ip() == connection.destination.ip());
    let wanted = if is_local { "SAME_IP_OR_LOOPBACK" } else { "EXTERNAL" };
    prefer(chains, |m| m.source_type == wanted, |m| m.source_type == "ANY")
}

/// `findFilterChainForSourceIpAndPort`.
fn by_source_port(chains: Chains<'_>, port: Option<u16>) -> Chains<'_> {
    prefer(chains, |m| port.is_some_and(|port| m.source_ports.contains(&port)), |m| m.source_ports.is_empty())
}

/// The chains that `wants` accepts; if there are none, the chains without a condition.
fn prefer(
    chains: Chains<'_>,
    wants: impl Fn(&ChainMatch) -> bool,
    any: impl Fn(&ChainMatch) -> bool,
) -> Chains<'_> {
    if chains.iter().any(|chain| wants(chain.matches)) {
        chains.into_iter().filter(|chain| wants(chain.matches)).collect()
    } else {
        chains.into_iter().filter(|chain| any(chain.matches)).collect()
    }
}
