//! Random configurations and first bytes, from a seed: listeners, chains, routes and clusters that Envoy accepts (most
//! of the time), with the odd shapes that sidecars have and a few that they should not have.

pub(crate) mod clusters;
mod connection;
mod filters;
mod routes;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::access_log;
use super::world::{PORT, World};

const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";

/// Splitmix64: the same seed gives the same worlds on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }

    pub(crate) fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }

    /// One of some values.
    pub(crate) fn choose(&mut self, from: &[Value]) -> Value {
        from[self.below(from.len())].clone()
    }

    fn some<'t>(&mut self, from: &[&'t str], most: usize) -> Vec<&'t str> {
        let count = 1 + self.below(most);
        let mut picked: Vec<&str> = (0..count).map(|_| self.pick(from)).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    /// Sets a field, one time in `number`, to one of `values`.
    fn set(&mut self, number: usize, message: &mut Value, field: &str, values: &[Value]) {
        if self.one_in(number) {
            message[field] = self.choose(values);
        }
    }
}

pub(crate) struct Generator {
    pub(crate) random: Random,
    pub(crate) log: PathBuf,
}

/// The listener that redirected connections enter by.
pub(crate) fn entry(log: &Path, sniffs: bool) -> Value {
    let name = "virtualOutbound";
    let tcp = |cluster: &str| {
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{TYPES}.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": cluster,
            "access_log": access_log(log, "tcp", name)}})
    };
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name, "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15001}},
        "additional_addresses": [{"address": {"socket_address": {"address": "::", "port_value": 15001}}}],
        "use_original_dst": true, "traffic_direction": "OUTBOUND",
        "access_log": access_log(log, "listener", name),
        "listener_filters": if sniffs { json!([connection::inspector("http")]) } else { json!([]) },
        "listener_filters_timeout": "0s",
        "filter_chains": [
            {"name": "virtualOutbound-blackhole", "filter_chain_match": {"destination_port": 15001},
                "filters": [tcp("BlackHoleCluster")]},
            {"name": "virtualOutbound-catchall-tcp", "filters": [tcp("PassthroughCluster")]},
        ],
    })
}

impl Generator {
    pub(crate) fn world(&mut self) -> World {
        let ip: std::net::IpAddr =
            self.random.pick(&["10.1.0.1", "10.1.2.3", "10.9.9.9", "fd00::5"]).parse().unwrap();
        let mut listeners = Vec::new();
        if self.random.one_in(2) {
            listeners.push(self.listener(&ip.to_string(), "exact"));
        }
        if !self.random.one_in(4) {
            let any = if self.random.one_in(8) { "::" } else { "0.0.0.0" };
            listeners.push(self.listener(any, "any"));
        }
        if ip.is_ipv6() && self.random.one_in(2) {
            listeners.push(self.listener("::", "any6"));
        }
        let head = super::head::random(&mut self.random);
        let mut world = World { listeners: listeners.into(), to: (ip, PORT).into(), head, unmodeled: None };
        if self.random.one_in(25) {
            self.set_unmodeled(&mut world);
        }
        world
    }

    /// Sets a field that the evaluator does not know, in a place of the first listener that Envoy takes it in.
    fn set_unmodeled(&mut self, world: &mut World) {
        let Some(listener) = world.listeners.get_mut(0) else { return };
        let places: [(&str, &str, Value); 4] = [
            ("", "ignore_global_conn_limit", true.into()),
            (
                "/filter_chains/0/filters/0/typed_config/http_protocol_options",
                "allow_custom_methods",
                true.into(),
            ),
            ("/filter_chains/0/filters/0/typed_config", "add_user_agent", true.into()),
            (
                "/filter_chains/0/filters/0/typed_config",
                "scheme_header_transformation",
                json!({"scheme_to_overwrite": "https"}),
            ),
        ];
        let (place, field, value) = places[self.random.below(places.len())].clone();
        let is_http = listener.pointer("/filter_chains/0/filters/0/typed_config/route_config").is_some();
        if let Some(place) = listener.pointer_mut(place).filter(|_| place.is_empty() || is_http) {
            place[field] = value;
            world.unmodeled = Some(field);
        }
    }
}
