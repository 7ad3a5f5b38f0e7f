//! Cluster IPs as the kernel of a node serves them: what leaves a pod for one is sent on to an endpoint of the Service, or is
//! refused where the Service has none. A real node has kube-proxy for this; its rules are a few lines of nftables here, in the
//! network namespace that all pods route through.
//!
//! Source: k8s.io/kubernetes pkg/proxy/nftables/proxier.go (`service-ips`, `no-endpoint-services`).

use std::fmt::Write as _;
use std::fs;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Mesh, TIMEOUT};
use crate::process::Process;

/// A family of addresses: nftables' name, its word for a type, the switch for forwarding, and the API server's cluster IPs.
const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("ip", "ipv4_addr", "ipv4/ip_forward", "10.96.0.0/16"),
    ("ip6", "ipv6_addr", "ipv6/conf/all/forwarding", "fd00:96::/112"),
];

impl Mesh {
    /// The ranges from which the API server takes cluster IPs.
    pub(super) fn service_ranges(&self) -> Vec<&'static str> {
        FAMILIES.iter().take(1 + usize::from(self.options.dual_stack)).map(|(.., range)| *range).collect()
    }

    /// Makes the rules, without any Service.
    pub(super) fn start_cluster_ips(&self) -> Result<()> {
        for (family, kind, forwarding, range) in FAMILIES.iter().take(self.service_ranges().len()) {
            let switch = format!("/proc/sys/net/{forwarding}");
            self.control
                .netns()
                .run(|| fs::write(&switch, "1"))?
                .with_context(|| format!("cannot switch on {switch} in the control plane's network"))?;
            self.nft(&format!(
                "table {family} services {{
                   map endpoints {{ type {kind} . inet_service : {kind} . inet_service; }}
                   chain prerouting {{
                     type nat hook prerouting priority dstnat;
                     dnat {family} to {family} daddr . tcp dport map @endpoints
                   }}
                   chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
                   chain forward {{ type filter hook forward priority filter; {family} daddr {range} reject; }}
                 }}"
            ))?;
        }
        Ok(())
    }

    /// Waits until each Service has the endpoints that Kubernetes' controller finds for it, and serves their addresses.
    pub(super) fn sync_cluster_ips(&self) -> Result<()> {
        let services = self.api.list("/api/v1/services")?;
        let mut slices = self.api.list("/apis/discovery.k8s.io/v1/endpointslices")?;
        for service in services.iter().filter(|service| has_selector(service)) {
            if slices.iter().any(|slice| is_of(slice, service)) {
                continue;
            }
            // No garbage collector runs here, so a slice of a deleted Service stays; for a new Service of its name the
            // controller may keep it.
            slices
                .iter()
                .filter(|slice| has_name_of(slice, service))
                .try_for_each(|slice| self.remove(slice))?;
            let pods = self.api.list("/api/v1/pods")?;
            if pods.iter().any(|pod| selects(service, pod)) {
                slices.push(self.wait_slice(service)?);
            }
        }
        let rules = elements(&services, &slices);
        let mut served = self.cluster_ips.lock().unwrap_or_else(PoisonError::into_inner);
        if *served != rules {
            let mut script = String::new();
            for (family, ..) in FAMILIES.iter().take(self.service_ranges().len()) {
                let _ = writeln!(script, "flush map {family} services endpoints");
            }
            self.nft(&(script + &rules))?;
            *served = rules;
        }
        Ok(())
    }

    /// The first slice of a Service that has endpoints.
    fn wait_slice(&self, service: &Value) -> Result<Value> {
        let text = |key: &str| service["metadata"][key].as_str().context("a Service without a name");
        let collection =
            format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", text("namespace")?);
        let label = format!("labelSelector=kubernetes.io%2Fservice-name%3D{}", text("name")?);
        self.api.watch(&collection, &label, |slice| {
            let has_endpoints = slice["endpoints"].as_array().is_some_and(|all| !all.is_empty());
            (is_of(slice, service) && has_endpoints).then(|| slice.clone())
        })
    }

    fn nft(&self, script: &str) -> Result<()> {
        let mut command = self.control.command("nft")?;
        command.args(["-f", "-"]);
        Process::run_checked(command, script.as_bytes(), TIMEOUT).map(drop)
    }
}

fn has_selector(service: &Value) -> bool {
    service["spec"]["selector"].is_object() && service["spec"]["type"] != "ExternalName"
}

fn selects(service: &Value, pod: &Value) -> bool {
    let mut selector = service["spec"]["selector"].as_object().into_iter().flatten();
    let (labels, namespace) = (&pod["metadata"]["labels"], &pod["metadata"]["namespace"]);
    *namespace == service["metadata"]["namespace"] && selector.all(|(key, value)| labels[key] == *value)
}

/// Whether the slice is of this Service, and not of an earlier one of its name.
fn is_of(slice: &Value, service: &Value) -> bool {
    let owner = &slice["metadata"]["ownerReferences"][0]["uid"];
    has_name_of(slice, service) && (owner.is_null() || *owner == service["metadata"]["uid"])
}

fn has_name_of(slice: &Value, service: &Value) -> bool {
    let (slice, service) = (&slice["metadata"], &service["metadata"]);
    slice["namespace"] == service["namespace"]
        && slice["labels"]["kubernetes.io/service-name"] == service["name"]
}

/// For each cluster IP and port the first ready endpoint.
fn elements(services: &[Value], slices: &[Value]) -> String {
    let mut rules = String::new();
    for service in services {
        let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for ip in ips.filter(|ip| *ip != "None") {
            let (family, kind) = if ip.contains(':') { ("ip6", "IPv6") } else { ("ip", "IPv4") };
            for port in service["spec"]["ports"].as_array().into_iter().flatten() {
                let own = slices.iter().filter(|slice| is_of(slice, service) && slice["addressType"] == kind);
                let endpoint = own.clone().find_map(|slice| endpoint(slice, &port["name"]));
                if let (Some((address, target)), Some(port)) = (endpoint, port["port"].as_u64()) {
                    let _ = writeln!(
                        rules,
                        "add element {family} services endpoints {{ {ip} . {port} : {address} . {target} }}"
                    );
                }
            }
        }
    }
    rules
}

fn endpoint<'a>(slice: &'a Value, port: &Value) -> Option<(&'a str, u64)> {
    let target =
        slice["ports"].as_array()?.iter().find(|target| target["name"] == *port)?["port"].as_u64()?;
    let ready = slice["endpoints"].as_array()?.iter().find(|one| one["conditions"]["ready"] != false)?;
    Some((ready["addresses"][0].as_str()?, target))
}
