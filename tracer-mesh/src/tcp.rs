//! Where a TCP proxy sends a connection.

use std::net::SocketAddr;

use super::Error;
use super::cluster::{Cluster, Hosts, Tls};
use super::decision::{ConnectionOutcome, Decision, Place};
use super::http::resolved_later;
use super::overlay::View;
use super::tcp_proxy::TcpProxy;

/// Decides where a TCP proxy sends the connection. Returns the internal listener that its cluster leads to, if it does.
///
/// Source: envoy `source/common/tcp_proxy/tcp_proxy.cc` `Filter::establishUpstreamConnection` (no such cluster: NC; no
/// host: UH; both end the connection without a byte) and `TunnelingConfigHelperImpl`.
pub(crate) fn on_tcp_proxy(
    view: View<'_>,
    proxy: &TcpProxy,
    cluster_override: Option<&String>,
    to: SocketAddr,
    decision: &mut Decision,
) -> Result<Option<String>, Error> {
    let name = match (cluster_override, proxy.clusters.as_slice()) {
        (Some(name), _) => {
            decision.step(format!("A filter before it puts cluster {name} in the place of its own."));
            name
        }
        (None, [name]) => name,
        (None, []) => {
            decision.caveat("the TCP proxy takes its cluster from a rule that is not evaluated here");
            decision.outcome = ConnectionOutcome::Tunnel;
            return Ok(None);
        }
        (None, [first, ..]) => {
            decision.caveat(format!(
                "one of the weighted clusters {} is drawn by lot",
                proxy.clusters.join(", ")
            ));
            first
        }
    };
    decision.cluster = Some(name.clone());
    let Some(cluster) = view.cluster(name, proxy.subset.as_ref())? else {
        if view.knows_clusters() {
            let is_warming = view.dump.unsettled.warming_clusters.contains(name);
            if is_warming {
                decision.caveat(format!("cluster {name} is warming and not yet in use"));
            }
            decision.step(format!(
                "Cluster {name} is {}; Envoy closes the connection.",
                if is_warming { "not yet in use" } else { "none of those that the dump has" }
            ));
            decision.outcome = ConnectionOutcome::Close;
        } else {
            decision.caveat(format!("the dump has no clusters, so cluster {name} is taken to exist"));
            decision.outcome = ConnectionOutcome::Tunnel;
        }
        return Ok(None);
    };
    decision.caveats(&cluster.unread);
    match cluster.hosts {
        Hosts::None | Hosts::NoneInSubset => {
            let which = if cluster.hosts == Hosts::None { "" } else { " with the labels that are asked for" };
            decision.step(format!(
                "Cluster {name} has no endpoint{which}; Envoy closes the connection without a byte."
            ));
            decision.inner.no_host = true;
            decision.outcome = ConnectionOutcome::Close;
            return Ok(None);
        }
        Hosts::Unknown => decision.caveat(format!("the dump does not show the hosts of cluster {name}")),
        Hosts::Dialed | Hosts::Some => {}
    }
    if cluster.max_connections == Some(0) {
        // Filter::establishUpstreamConnection: flag UO.
        decision.step(format!(
            "The limits of cluster {name} allow no connection (circuit_breakers); Envoy closes it."
        ));
        decision.inner.no_host = true;
        decision.outcome = ConnectionOutcome::Close;
        return Ok(None);
    }
    if let Some(internal) = &cluster.internal_listener {
        return Ok(Some(internal.clone()));
    }
    decision.caveats(resolved_later(name, &cluster).as_slice());
    decision.hosts = cluster.hosts_of(to);
    decision.inner.sends_proxy_header = cluster.sends_proxy_header;
    match &proxy.tunnels_to {
        Some(host) if is_hbone(host, name) => {
            decision.step("Envoy sends the bytes inside the mesh's own tunnel (HBONE), which the proxy's side takes off.");
            decision.outcome = ConnectionOutcome::Tunnel;
            return Ok(None);
        }
        Some(host) => {
            decision.step(format!(
                "Envoy opens a tunnel of its own through cluster {name} to {host}, for the bytes."
            ));
            decision.outcome = ConnectionOutcome::Elsewhere;
            decision.inner.is_rewritten = true;
            decision.inner.wraps_tls = cluster.tls == Tls::Yes;
            decision.sent_to = Some(host.clone());
            return Ok(None);
        }
        None => {}
    }
    decision.outcome = ConnectionOutcome::Tunnel;
    // Since Istio 1.4 endpoints say whether they have a sidecar; the mesh's TLS to another one is TLS to a stranger.
    let is_stranger = cluster.tls == Tls::Mesh
        && !cluster.has_mesh_host
        && !cluster.addresses.is_empty()
        && view.dump.labels_endpoints();
    match cluster.tls {
        Tls::Yes => {
            decision.inner.wraps_tls = true;
            decision.inner.wraps_mesh_host = cluster.has_mesh_host;
        }
        Tls::Mesh if is_stranger && !cluster.is_auto_tls => {
            decision.inner.wraps_tls = true;
            decision.inner.is_mesh_tls = true;
        }
        Tls::Mesh if !cluster.is_auto_tls && !cluster.has_mesh_host => decision.caveat(format!(
            "the dump does not show whether the hosts of cluster {name} have a sidecar that takes off the mesh's mTLS"
        )),
        Tls::Perhaps => decision.caveat(format!("Envoy may speak TLS to hosts of cluster {name}")),
        Tls::No | Tls::Mesh => {}
    }
    if cluster.sends_proxy_header {
        decision
            .note(format!("Envoy sends a PROXY protocol header to cluster {name} before the app's bytes"));
    }
    // istiod sets the largest number where no DestinationRule does.
    if let Some(limit) = cluster.max_connections.filter(|limit| *limit < 1024) {
        decision.note(format!(
            "cluster {name} has a limit of {limit} connection{} at once; Envoy closes further ones without a byte (UO)",
            if limit == 1 { "" } else { "s" }
        ));
    }
    let elsewhere = elsewhere(&cluster, to, decision.inner.place, decision.inner.is_inbound);
    let how = match (decision.inner.wraps_tls, cluster.tls) {
        (true, _) => "wrapped in TLS",
        (false, Tls::Mesh) => "in the mesh's own mTLS, which the proxy's sidecar takes off again,",
        (false, _) => "as they are",
    };
    let target = match (&elsewhere, cluster.hosts) {
        (Some(other), _) => format!("{other}, which is not the dialed {to}"),
        (None, Hosts::Dialed) => "the address that the app dialed".to_owned(),
        (None, _) => "one of its hosts".to_owned(),
    };
    decision.step(format!("Cluster {name} sends the bytes {how} to {target}."));
    if elsewhere.is_some() && !decision.inner.wraps_tls {
        decision.outcome = ConnectionOutcome::Elsewhere;
    }
    decision.sent_to = elsewhere;
    Ok(None)
}

/// istiod's tunnel between members of the mesh, whose target is not written in the configuration.
///
/// Source: istio `pilot/pkg/networking/core/waypoint.go` `buildConnectOriginateListener`.
fn is_hbone(host: &str, cluster: &str) -> bool {
    cluster == "connect_originate"
        || host.contains("tunnel:destination")
        || host.contains("TUNNEL_DESTINATION")
}

/// Where the bytes go, where that is neither the dialed address nor an endpoint of the dialed service.
///
/// A listener on exactly the dialed address is that of its service, whose cluster holds the service's endpoints.
fn elsewhere(cluster: &Cluster, to: SocketAddr, place: Place, is_inbound: bool) -> Option<String> {
    if let Some(port) = cluster.port_override.filter(|port| *port != to.port()) {
        return Some(SocketAddr::new(to.ip(), port).to_string());
    }
    let is_its_service = is_inbound || matches!(place, Place::Exact | Place::NotRedirected);
    if cluster.dials_original
        || is_its_service
        || cluster.addresses.is_empty()
        || cluster.addresses.contains(&to)
    {
        return None;
    }
    let first: Vec<String> = cluster.addresses.iter().take(3).map(ToString::to_string).collect();
    let more = cluster.addresses.len().saturating_sub(first.len());
    Some(if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) })
}
