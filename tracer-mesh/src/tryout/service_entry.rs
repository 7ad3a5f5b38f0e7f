//! A ServiceEntry laid over a dump.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{Trial, TryError};
use crate::decision::Place;
use crate::json::Node;
use crate::origin::{self, outbound_cluster};
use crate::simulated_config;

impl Trial<'_> {
    pub(super) fn service_entry(&mut self, object: Node<'_>) -> Result<(), TryError> {
        let spec = object.key("spec");
        let Some(host) = spec.key("hosts").texts().into_iter().next() else {
            return Err(TryError::Field("the ServiceEntry has no hosts".to_owned()));
        };
        let label = format!("the ServiceEntry for {host}");
        if spec.key("workloadSelector").exists() {
            return Err(TryError::Field(format!("{label} selects workloads")));
        }
        if !self.is_seen(object, &label) {
            return Ok(());
        }
        let ports = spec.key("ports").items();
        let Some(port) = ports.clone().find(|port| port.key("number").port() == Some(self.to.port())) else {
            self.note(format!(
                "{label} does not declare port {}, so it changes nothing here",
                self.to.port()
            ));
            return Ok(());
        };
        let protocol = port.key("protocol").text().unwrap_or_default().to_ascii_uppercase();
        let addresses = spec.key("addresses").texts();
        match protocol.as_str() {
            "TCP" => self.tcp_entry(spec, port, &host, &addresses, &label),
            "HTTP" | "HTTP2" | "GRPC" => {
                self.http_entry(&host, &addresses, &label);
                Ok(())
            }
            other => Err(TryError::Field(format!("{label} declares the port as `{other}`"))),
        }
    }

    fn tcp_entry(
        &mut self,
        spec: Node<'_>,
        port: Node<'_>,
        host: &str,
        addresses: &[String],
        label: &str,
    ) -> Result<(), TryError> {
        let resolution = spec.key("resolution").text().unwrap_or("NONE");
        let name = format!("outbound|{}||{host}", self.to.port());
        if addresses.is_empty() {
            if resolution != "NONE" {
                self.caveat(format!(
                    "{label} has no addresses: whether it takes the whole port, or an address of its own that Istio allocates, \
                     is a setting that no dump shows"
                ));
                return Ok(());
            }
            if self.has_wildcard() {
                self.caveat(format!(
                    "{label} has no addresses, and the port has a listener for all addresses already: the older declaration counts"
                ));
                return Ok(());
            }
            let any = if self.to.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
            let all = SocketAddr::new(any, self.to.port());
            self.result.edit.listeners.append(&mut simulated_config::tcp_port(all, &name).listeners);
        } else {
            let mut ranges = Vec::new();
            for address in addresses {
                match exact(address) {
                    Some(ip) => ranges.push(ip),
                    None => return Err(TryError::Field(format!("{label} has the address range {address}"))),
                }
            }
            if !ranges.contains(&self.to.ip()) {
                self.note(format!("{label} does not list {}, so it changes nothing here", self.to.ip()));
                return Ok(());
            }
            let current = origin::service_at(self.dump, self.decision, self.to.ip())?;
            let current_host = current.and_then(|origin| origin.host).or_else(|| {
                let (_, host) = outbound_cluster(self.decision.cluster.as_deref()?)?;
                (self.decision.inner.place == Place::Exact).then(|| host.to_owned())
            });
            if let Some(other) = current_host.filter(|current| current != host) {
                self.caveat(format!(
                    "{other} declares {} too: of two declarations the older one counts, so {label} may change nothing",
                    self.to
                ));
                return Ok(());
            }
            self.result.edit.listeners.append(&mut simulated_config::tcp_port(self.to, &name).listeners);
        }
        let cluster = self.entry_cluster(spec, port, host, &name, resolution, label);
        self.result.edit.clusters.push(cluster);
        Ok(())
    }

    /// The cluster of a ServiceEntry's port, by its resolution.
    fn entry_cluster(
        &mut self,
        spec: Node<'_>,
        port: Node<'_>,
        host: &str,
        name: &str,
        resolution: &str,
        label: &str,
    ) -> Value {
        let kind = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        if resolution == "NONE" {
            return json!({"@type": kind, "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"});
        }
        let target = port.key("targetPort").port().unwrap_or(self.to.port());
        let named: Vec<(String, u16)> = spec
            .key("endpoints")
            .items()
            .filter_map(|endpoint| {
                let ports = endpoint.key("ports");
                let own = port.key("name").text().and_then(|name| ports.key(name).port());
                Some((endpoint.key("address").text()?.to_owned(), own.unwrap_or(target)))
            })
            .collect();
        let named =
            if named.is_empty() && resolution != "STATIC" { vec![(host.to_owned(), target)] } else { named };
        if named.iter().any(|(address, _)| address.parse::<IpAddr>().is_err()) {
            self.caveat(format!(
                "{label} sends to what its names resolve to, which only the sidecar knows: it must be {}",
                self.to
            ));
        }
        let hosts: Vec<Value> = named
            .iter()
            .map(|(address, port)| {
                json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
            })
            .collect();
        let discovery = if resolution == "STATIC" { "STATIC" } else { "STRICT_DNS" };
        json!({"@type": kind, "name": name, "type": discovery,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}})
    }

    /// An HTTP port: one listener for all addresses, which routes by host name.
    fn http_entry(&mut self, host: &str, addresses: &[String], label: &str) {
        if self.has_wildcard() {
            self.note(format!(
                "{label} adds a virtual host to the port's HTTP listener, which is there already"
            ));
            return;
        }
        let port = self.to.port();
        let cluster = format!("outbound|{port}||{host}");
        let domains: Vec<String> = [host.to_owned(), format!("{host}:{port}")]
            .into_iter()
            .chain(addresses.iter().flat_map(|ip| [ip.clone(), format!("{ip}:{port}")]))
            .collect();
        self.result.edit.listeners.push(simulated_config::http_port(port, &cluster, host, &domains));
    }

    fn has_wildcard(&self) -> bool {
        self.dump.listeners.iter().any(|(head, _)| {
            !head.is_inbound()
                && head.binds().any(|bind| bind.ip.is_unspecified() && bind.port == self.to.port())
        })
    }
}

/// The address of an entry, where it is one and not a range.
fn exact(address: &str) -> Option<IpAddr> {
    let (ip, length) = address.split_once('/').unwrap_or((address, ""));
    let ip: IpAddr = ip.parse().ok()?;
    let whole = if ip.is_ipv4() { "32" } else { "128" };
    (length.is_empty() || length == whole).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_told_from_a_range() {
        assert_eq!(exact("10.0.0.1/32"), "10.0.0.1".parse().ok());
        assert_eq!((exact("10.0.0.0/8"), exact("fd00::1")), (None, "fd00::1".parse().ok()));
    }
}
