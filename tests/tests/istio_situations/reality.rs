//! From what was seen (the client's answer, the wire, the servers' logs) to the verdict that is right, by the table of
//! verdicts in the design. It knows nothing of the tracer.

use std::fmt::{self, Display};
use std::net::SocketAddr;

use lab::{Transcript, WireFlow};
use serde_json::Value;

use crate::table::PORT;

/// What was seen of one connection.
#[derive(Debug)]
pub struct Seen {
    /// What the app dialed.
    pub dialed: SocketAddr,
    /// What it sent.
    pub head: Vec<u8>,
    /// What it got.
    pub client: Transcript,
    /// What left its pod.
    pub flows: Vec<WireFlow>,
    /// Addresses that are the dialed one or an endpoint of the dialed Service.
    pub endpoints: Vec<SocketAddr>,
    /// Addresses whose pod has a sidecar.
    pub injected: Vec<SocketAddr>,
    /// Whether the squid behind a sidecar got a request.
    pub injected_squid_saw_it: bool,
    /// Whether it got TLS, which it does not speak.
    pub injected_squid_saw_tls: bool,
}

/// A verdict, as it should be or as it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Its reason, where it has one.
    pub reason: Option<String>,
    /// Whose sidecar it is about: `outbound` or `inbound`.
    pub direction: String,
}

impl Verdict {
    fn new(verdict: &str, reason: Option<&str>) -> Self {
        Self { name: verdict.to_owned(), reason: reason.map(str::to_owned), direction: "outbound".to_owned() }
    }

    fn inbound(self) -> Self {
        Self { direction: "inbound".to_owned(), ..self }
    }

    /// Whether it is about a fault of the mesh that concerns the app's own sidecar.
    pub fn is_flagged(&self) -> bool {
        let flagged =
            ["handled_as_http", "blackholed", "wrapped_in_tls", "misdirected", "absolute_form_rewritten"];
        flagged.contains(&self.name.as_str()) && self.direction == "outbound"
    }

    /// From a report or from an explanation.
    pub fn said(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Self {
            name: text("verdict").unwrap_or_else(|| "none".to_owned()),
            reason: text("reason"),
            direction: text("direction").unwrap_or_else(|| "outbound".to_owned()),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(reason) = &self.reason {
            write!(f, "/{reason}")?;
        }
        if self.direction == "inbound" {
            f.write_str(" inbound")?;
        }
        Ok(())
    }
}

impl Seen {
    /// The right verdict.
    pub fn verdict(&self) -> Verdict {
        let own = self.client.local.map(|local| local.port());
        if own.is_some_and(|own| self.flows.iter().any(|flow| flow.port == own && flow.to == self.dialed)) {
            return Verdict::new("direct", None);
        }
        // The sidecar's talk with istiod is on ports of its own.
        let flows = || self.flows.iter().filter(|flow| !matches!(flow.to.port(), 15_000..=15_099));
        let carrying = || flows().filter(|flow| !flow.sent.is_empty());
        let status = self.client.status();
        if let Some(flow) = carrying().find(|flow| flow.sent.starts_with(&self.head)) {
            return self.passed_on(flow, status, true);
        }
        if let Some(flow) = carrying().find(|flow| flow.sent.starts_with(&[0x16, 3])) {
            // The proxy's sidecar takes the mesh's own TLS off again.
            let is_mesh = self.injected.contains(&flow.to) && !self.injected_squid_saw_tls;
            return if is_mesh {
                self.passed_on(flow, status, self.injected_squid_saw_it)
            } else {
                Verdict::new("wrapped_in_tls", None)
            };
        }
        let tunnels = |flow: &&WireFlow| flow.sent.windows(self.head.len()).any(|window| window == self.head);
        if carrying().any(|flow| tunnels(&flow)) {
            // Behind a CONNECT of the sidecar's own.
            return Verdict::new("undetermined", Some("rewritten"));
        }
        if let Some(flow) = carrying().find(|flow| flow.sent.is_ascii()) {
            let name = if flow.sent.starts_with(b"CONNECT ") {
                "handled_as_http"
            } else {
                "absolute_form_rewritten"
            };
            return Verdict::new(name, (name == "handled_as_http").then_some("forwarded"));
        }
        let failed = flows().any(|flow| !flow.accepted);
        match status {
            Some(_) if failed => Verdict::new("handled_as_http", Some("upstream_failed")),
            Some(status) => Verdict::new("handled_as_http", Some(reason(status))),
            None if self.gave_up() => Verdict::new("unanswered", Some("gave_up")),
            None if failed => Verdict::new("unreachable", Some("connect_failed")),
            None if flows().next().is_some() => Verdict::new("unreachable", Some("closed_without_reply")),
            None => Verdict::new("blackholed", None),
        }
    }

    /// Whether the app closed the connection, because no answer came.
    fn gave_up(&self) -> bool {
        !["FIN", "RST"].contains(&self.client.end.as_str()) && self.client.local.is_some()
    }

    /// The bytes went to `flow.to`, as they were or inside the mesh's own TLS.
    fn passed_on(&self, flow: &WireFlow, status: Option<u16>, plain: bool) -> Verdict {
        let Some(status) = status else {
            return if self.gave_up() {
                Verdict::new("unanswered", Some("gave_up"))
            } else {
                Verdict::new("unreachable", Some("closed_without_reply"))
            };
        };
        let is_mesh = self.injected.contains(&flow.to);
        if !self.endpoints.contains(&flow.to) {
            return Verdict::new("misdirected", None);
        }
        if is_mesh && (!plain || !self.injected_squid_saw_it) {
            return Verdict::new("handled_as_http", Some(reason(status))).inbound();
        }
        Verdict::new(if (200..300).contains(&status) { "tunneled" } else { "refused_by_proxy" }, None)
    }
}

/// Why an Envoy answers by itself with this status.
fn reason(status: u16) -> &'static str {
    match status {
        404 => "route_not_found",
        403 => "filter_denied",
        426 => "http10_refused",
        400 => "bad_request",
        501 => "not_implemented",
        502..=504 => "upstream_failed",
        200..=299 => "terminated",
        _ => "other_status",
    }
}

/// The addresses that a connection to `dialed` may rightly reach: itself, and the endpoints of the objects that have it.
pub fn endpoints(
    dialed: SocketAddr,
    objects: &[Value],
    pods: &[(&str, &str, SocketAddr)],
) -> Vec<SocketAddr> {
    let mut found = vec![dialed];
    let ip = dialed.ip().to_string();
    for object in objects {
        let (spec, namespace) = (&object["spec"], &object["metadata"]["namespace"]);
        let cluster_ips = spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]);
        if cluster_ips.into_iter().any(|cluster_ip| *cluster_ip == ip.as_str()) {
            let selected =
                pods.iter().filter(|(ns, app, _)| *namespace == *ns && spec["selector"]["app"] == *app);
            found.extend(selected.map(|(.., address)| *address));
            let slices = objects.iter().filter(|slice| slice["kind"] == "EndpointSlice");
            let addresses = slices.flat_map(|slice| {
                let port = slice["ports"][0]["port"]
                    .as_u64()
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(PORT);
                let all = slice["endpoints"].as_array().into_iter().flatten();
                all.filter_map(move |endpoint| {
                    Some(SocketAddr::new(endpoint["addresses"][0].as_str()?.parse().ok()?, port))
                })
            });
            found.extend(addresses);
        }
        let egress = spec["egress"].as_array().into_iter().flatten();
        if egress.clone().any(|listener| listener["bind"] == ip.as_str()) {
            // Its hosts are the proxy's namespace.
            found.extend(
                pods.iter().filter(|(ns, app, _)| (*ns, *app) == ("egress", "squid")).map(|(.., at)| *at),
            );
        }
        let has_it = spec["addresses"]
            .as_array()
            .is_some_and(|addresses| addresses.iter().any(|address| *address == ip.as_str()));
        // istiod allocates from this range (istio pilot/pkg/networking/serviceentry/serviceentry.go, `IPV4Prefix`).
        let is_allocated =
            spec["hosts"].is_array() && spec["addresses"].is_null() && ip.starts_with("240.240.");
        if has_it || is_allocated {
            let all = spec["endpoints"].as_array().into_iter().flatten();
            found.extend(all.filter_map(|endpoint| {
                Some(SocketAddr::new(endpoint["address"].as_str()?.parse().ok()?, PORT))
            }));
        }
    }
    found
}
