//! The changes that may make a CONNECT reach the proxy, in the order in which they are shown: the repair of the cause, then a
//! ServiceEntry, then the ways around it. They are not proven here.

mod around;
mod cause;
mod entry;

use std::net::{IpAddr, SocketAddr};

use super::cluster;
use super::decision::{Decision, Place};
use super::dump::Dump;
use super::manifest::Manifest;
use super::origin::{self, Origin, Origins};
use super::overlay::Edit;
use super::{Error, json::Node};

/// A connection that does not reach its proxy.
pub(crate) struct Failure<'a> {
    pub to: SocketAddr,
    pub decision: &'a Decision,
    pub origins: &'a Origins,
}

/// A change that may help.
pub(crate) struct Candidate {
    pub title: String,
    /// The command that applies the manifest, saved as `fix.yaml`.
    pub apply: String,
    pub manifest: Manifest,
    /// What it may cost, in a few words.
    pub risk: &'static str,
    pub trade_off: String,
    pub edit: Edit,
    /// The addresses that it is for.
    pub cures: Vec<SocketAddr>,
    /// What the dump cannot show, and keeps the change from being proven.
    pub unless: Option<String>,
}

const APPLY: &str = "kubectl apply -f fix.yaml";

/// All candidates for `failures`; `reached` are addresses of the same proxy that are well.
pub(crate) fn candidates(
    dump: &Dump,
    failures: &[Failure<'_>],
    reached: &[(SocketAddr, &Decision)],
) -> Result<Vec<Candidate>, Error> {
    // Neither a ServiceEntry nor a redirect annotation changes a gateway's or an inbound listener.
    if failures.iter().any(|failure| failure.decision.inner.is_gateway || failure.decision.inner.is_inbound) {
        return Ok(Vec::new());
    }
    let mut repairs: Vec<Candidate> = Vec::new();
    let mut external = Vec::new();
    // Addresses that exist without the mesh; a Service's or an allocated address leads nowhere without Envoy, or to a
    // proxy whose own sidecar reads the same bytes as HTTP.
    let mut real = Vec::new();
    for failure in failures {
        let is_exact = failure.decision.inner.place == Place::Exact;
        if let Some(service) = origin::service_at(dump, failure.decision, failure.to.ip())? {
            // The address is a service of the mesh: a second declaration of it beside the first does not help
            // (istio#34245), its own port has to say TCP.
            add(&mut repairs, cause::own_port(&service, failure.to));
        } else if failure.decision.inner.wraps_tls && is_exact {
            add(&mut repairs, cause::tls(dump, failure)?);
            real.push(failure.to);
        } else if let Some(service) = cause::headless_service(dump, failure)? {
            add(&mut repairs, cause::headless_port(&service, failure));
        } else if !is_exact {
            external.push(failure);
            real.push(failure.to);
        } else if !failure.decision.inner.no_host {
            real.push(failure.to);
        }
    }
    let mut ways = Vec::new();
    let own = own_service(dump, &external)?;
    if let Some(own) = &own {
        repairs.extend(around::own_service(dump, &external, own)?);
    }
    // What the proxy's own sidecar reads as HTTP, it reads so however the bytes come.
    let is_hopeless = own.is_some() && !repairs.is_empty() && has_sidecar(dump, &external)?;
    if is_hopeless {
        real.clear();
    } else if !external.is_empty() {
        ways.push(match entry::existing(reached) {
            Some(entry) => entry::more_addresses(&entry, reached, &external),
            None => entry::new(dump, &external),
        });
        if own.is_none() {
            ways.extend(around::unrelated_ports(dump, &external)?);
        }
    }
    if real.len() == failures.len() && !real.is_empty() && real.iter().all(|to| !to.ip().is_loopback()) {
        ways.push(around::exclude(dump, real));
    }
    // A repair of the Service's own port changes the proxy's side too.
    for way in &mut ways {
        way.unless = beyond(dump, way)?;
    }
    Ok(repairs.into_iter().chain(ways).collect())
}

/// Adds a repair; one of the same object becomes one with the other, for all of their addresses.
fn add(repairs: &mut Vec<Candidate>, repair: Option<Candidate>) {
    let Some(mut repair) = repair else { return };
    match repairs.iter_mut().find(|known| known.title == repair.title && known.manifest == repair.manifest) {
        Some(known) => {
            known.cures.append(&mut repair.cures);
            known.edit.listeners.append(&mut repair.edit.listeners);
            known.edit.removed_listeners.append(&mut repair.edit.removed_listeners);
        }
        None => repairs.push(repair),
    }
}

/// The proxy's pod has a sidecar of its own, which sees the app's bytes next, and whose configuration is in another dump.
///
/// Where the sidecars speak the mesh's mTLS to each other, the Service's own port decides for both.
fn beyond(dump: &Dump, candidate: &Candidate) -> Result<Option<String>, Error> {
    for to in &candidate.cures {
        if let Some(service) = sidecar_of(dump, to.ip())? {
            return Ok(Some(format!(
                "the sidecar of the proxy's own pod ({to} is an endpoint of {service}) refuses what is not the mesh's mTLS or \
                 reads the port as HTTP; explain that pod's dump too"
            )));
        }
    }
    Ok(None)
}

/// The one service behind the listener, where the dialed addresses are its endpoints: an app dials the proxy's pods.
fn own_service(dump: &Dump, failures: &[&Failure<'_>]) -> Result<Option<Origin>, Error> {
    let Some(first) = failures.first() else { return Ok(None) };
    let [service] = first.origins.list.as_slice() else { return Ok(None) };
    let (Some(host), Some(port)) = (&service.host, service.port) else { return Ok(None) };
    let Some(list) = dump.endpoints_entry(&format!("outbound|{port}||{host}"))? else { return Ok(None) };
    let has = |failure: &&Failure<'_>| cluster::has_host(Node::of(&list), failure.to.ip());
    Ok(failures.iter().all(has).then(|| service.clone()))
}

fn has_sidecar(dump: &Dump, failures: &[&Failure<'_>]) -> Result<bool, Error> {
    for failure in failures {
        if sidecar_of(dump, failure.to.ip())?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The host of a service that has `ip` as an endpoint with a sidecar, where the dump shows one.
pub(crate) fn sidecar_of(dump: &Dump, ip: IpAddr) -> Result<Option<String>, Error> {
    let quoted = format!("\"{ip}\"");
    for (name, text) in dump.endpoint_texts() {
        if text.contains(&quoted)
            && let Some(list) = dump.endpoints_entry(name)?
            && cluster::has_mesh_host(Node::of(&list), ip)
        {
            return Ok(Some(origin::outbound_cluster(name).map_or(name, |(_, host)| host).to_owned()));
        }
    }
    Ok(None)
}

fn addresses(failures: &[&Failure<'_>]) -> (Vec<SocketAddr>, Vec<IpAddr>, Vec<u16>) {
    let cures: Vec<SocketAddr> = failures.iter().map(|failure| failure.to).collect();
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut ports: Vec<u16> = Vec::new();
    for to in &cures {
        if !ips.contains(&to.ip()) {
            ips.push(to.ip());
        }
        if !ports.contains(&to.port()) {
            ports.push(to.port());
        }
    }
    (cures, ips, ports)
}

fn app_namespace(dump: &Dump) -> Option<String> {
    dump.namespace()
}
