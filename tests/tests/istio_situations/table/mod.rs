//! The situations as data: which objects there are, and who dials what. Nothing here says what comes of it.

mod dual_stack;
mod istio;
mod objects;
mod pods;
mod services;
mod settings;

use std::net::IpAddr;

use serde_json::{Value, json};

/// The proxy's port, and that of the objects that get in its way.
pub const PORT: u16 = 3128;

/// One situation.
#[derive(Debug, Clone)]
pub struct Situation {
    /// Its name, which is unique.
    pub name: String,
    /// All objects that there are.
    pub objects: Vec<Value>,
    /// Who dials.
    pub client: Client,
    /// Where to.
    pub to: To,
    /// What the app sends first.
    pub request: Request,
    /// Fields of the `MeshConfig`.
    pub mesh_config: Value,
}

impl Situation {
    /// Whether the sidecar has to resolve names.
    pub fn has_names(&self) -> bool {
        let endpoints = |object: &Value| object["spec"]["endpoints"].as_array().cloned().unwrap_or_default();
        let mut all = self.objects.iter().flat_map(endpoints);
        all.any(|endpoint| endpoint["address"].as_str().is_some_and(|at| at.parse::<IpAddr>().is_err()))
    }
}

/// The pods that dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A default sidecar.
    Default,
    /// Four worker threads.
    FourWorkers,
    /// The sidecar's user is one of those that `OpenShift` assigns.
    OpenShift,
    /// TPROXY for inbound connections.
    Tproxy,
    /// Rules in nftables' own language.
    Nftables,
    /// `excludeOutboundPorts: 3128`.
    PortExcluded,
    /// `excludeOutboundIPRanges` with squid's address.
    AddressExcluded,
    /// `includeOutboundIPRanges` with the Services' addresses only.
    ServicesIncluded,
    /// One worker thread.
    OneWorker,
    /// The sidecar's user is an arbitrary one.
    AnyUser,
    /// Outbound connections are redirected to port 15123.
    ListenPort,
    /// The sidecar's agent answers the app's questions for names.
    DnsCapture,
    /// `interceptionMode: NONE`: a sidecar without any redirect.
    NoRedirect,
    /// A pod with an IPv4 and an IPv6 address, in a mesh with both.
    DualStack,
    /// No sidecar.
    NoSidecar,
}

/// What the app dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// squid's pod, which has no sidecar.
    Squid,
    /// The pod of the squid that has a sidecar.
    MeshSquid,
    /// Squid's pod, on a port where nothing listens.
    ClosedPort,
    /// The IPv6 address of squid's pod.
    SquidV6,
    /// This cluster IP or external address.
    Address([u8; 4]),
    /// The IPv6 cluster IP of the proxy's Service.
    VipV6,
    /// This port of the pod's own loopback.
    Loopback(u16),
    /// The address that the pod's name server gives for this name.
    Name(&'static str),
}

/// The app's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `CONNECT` as curl writes it.
    Connect,
    /// `CONNECT` in HTTP/1.0.
    Connect10,
    /// `CONNECT` to a host that squid refuses.
    ConnectDenied,
    /// `GET http://…`.
    AbsoluteForm,
    /// `CONNECT` as curl writes it, a second after the connection is open.
    Late,
}

/// Addresses of pods, for objects that name them.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// squid's.
    pub squid: String,
    /// squid's IPv6 address, where the mesh has two stacks.
    pub squid_v6: Option<String>,
    /// The other team's web server's.
    pub web: String,
}

/// An address of a Service, which the API server takes as it is.
const VIP: [u8; 4] = [10, 96, 20, 1];
/// The IPv6 address of the same Service, where it has two.
pub const VIP_V6: &str = "fd00:96::2001";
/// An address that only a ServiceEntry knows.
const EXTERNAL: [u8; 4] = [240, 1, 1, 1];

/// The situations of a mesh with two stacks.
pub fn dual_stack(addresses: &Addresses) -> Vec<Situation> {
    let mut table = Vec::new();
    dual_stack::all(&mut table, addresses);
    table
}

/// The situations of a mesh with one stack, in the order in which they are played.
pub fn all(addresses: &Addresses) -> Vec<Situation> {
    let mut table = Vec::new();
    services::undeclared(&mut table);
    services::declared(&mut table);
    istio::service_entries(&mut table, addresses);
    istio::sidecars(&mut table, addresses);
    istio::upgrades(&mut table);
    istio::destination_rules(&mut table, addresses);
    pods::both_injected(&mut table);
    pods::dead_endpoints(&mut table, addresses);
    settings::own_listeners(&mut table);
    settings::sequences(&mut table, addresses);
    settings::mesh_configs(&mut table);
    settings::names(&mut table, addresses);
    pods::clients(&mut table);
    table
}

fn add(table: &mut Vec<Situation>, name: &str, to: To, objects: Vec<Value>) {
    add_with(table, name, Client::Default, to, Request::Connect, objects);
}

fn add_with(
    table: &mut Vec<Situation>,
    name: &str,
    client: Client,
    to: To,
    request: Request,
    objects: Vec<Value>,
) {
    table.push(Situation { name: name.to_owned(), objects, client, to, request, mesh_config: json!({}) });
}
