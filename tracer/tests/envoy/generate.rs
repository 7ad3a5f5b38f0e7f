//! Random configurations and first bytes, from a seed: listeners, chains, routes and clusters that Envoy accepts (most
//! of the time), with the odd shapes that sidecars have and a few that they should not have.

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

    fn some<'t>(&mut self, from: &[&'t str], most: usize) -> Vec<&'t str> {
        let count = 1 + self.below(most);
        let mut picked: Vec<&str> = (0..count).map(|_| self.pick(from)).collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    }
}

pub(crate) struct Generator {
    pub(crate) random: Random,
    pub(crate) log: PathBuf,
}

/// The clusters that all worlds share.
pub(crate) fn clusters() -> Vec<Value> {
    let kind = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let host =
        json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}}}});
    let sick = json!({"endpoint": host["endpoint"], "health_status": "UNHEALTHY"});
    let assignment =
        |name: &str, hosts: Value| json!({"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]});
    vec![
        json!({"@type": kind, "name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}),
        json!({"@type": kind, "name": "BlackHoleCluster", "type": "STATIC"}),
        json!({"@type": kind, "name": "static", "type": "STATIC", "load_assignment": assignment("static", json!([host]))}),
        json!({"@type": kind, "name": "sick", "type": "STATIC", "load_assignment": assignment("sick", json!([sick])),
            "common_lb_config": {"healthy_panic_threshold": {}}}),
        json!({"@type": kind, "name": "panic", "type": "STATIC", "load_assignment": assignment("panic", json!([sick]))}),
    ]
}

const CLUSTERS: [&str; 6] = ["PassthroughCluster", "BlackHoleCluster", "static", "sick", "panic", "missing"];

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
        "listener_filters": if sniffs { json!([inspector("http")]) } else { json!([]) },
        "listener_filters_timeout": "0s",
        "filter_chains": [
            {"name": "virtualOutbound-blackhole", "filter_chain_match": {"destination_port": 15001},
                "filters": [tcp("BlackHoleCluster")]},
            {"name": "virtualOutbound-catchall-tcp", "filters": [tcp("PassthroughCluster")]},
        ],
    })
}

fn inspector(which: &str) -> Value {
    let message = if which == "tls" { "TlsInspector" } else { "HttpInspector" };
    json!({"name": format!("envoy.filters.listener.{which}_inspector"), "typed_config": {
        "@type": format!("{TYPES}.listener.{which}_inspector.v3.{message}")}})
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
        World { listeners: listeners.into(), to: (ip, PORT).into(), head }
    }

    fn listener(&mut self, address: &str, kind: &str) -> Value {
        let name = format!("{kind}_{PORT}");
        let mut filters = Vec::new();
        if self.random.one_in(3) {
            filters.push(inspector("tls"));
        }
        if !self.random.one_in(4) {
            filters.push(inspector("http"));
        }
        let chains: Vec<Value> = (0..=self.random.below(4)).map(|at| self.chain(&name, at)).collect();
        let mut listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": PORT}},
            "listener_filters": filters, "listener_filters_timeout": "0s",
            "continue_on_listener_filters_timeout": true, "bind_to_port": false,
            "access_log": access_log(&self.log, "listener", &name),
            "filter_chains": chains,
        });
        if address == "::" && self.random.one_in(2) {
            listener["address"]["socket_address"]["ipv4_compat"] = true.into();
        }
        if self.random.one_in(2) {
            let mut chain = self.chain(&name, 9);
            chain["filter_chain_match"] = json!({});
            listener["default_filter_chain"] = chain;
        }
        listener
    }

    fn chain(&mut self, listener: &str, at: usize) -> Value {
        let mut matching = json!({});
        let random = &mut self.random;
        if random.one_in(5) {
            matching["destination_port"] = if random.one_in(2) { PORT.into() } else { 1.into() };
        }
        if random.one_in(3) {
            let range = random.pick(
                &[("10.0.0.0", 8), ("10.1.0.0", 16), ("10.1.2.0", 24), ("10.1.2.3", 32), ("fd00::", 16)]
                    .each_ref(),
            );
            matching["prefix_ranges"] = json!([{"address_prefix": range.0, "prefix_len": range.1}]);
        }
        if random.one_in(5) {
            matching["server_names"] =
                json!(random.some(&["a.example", "*.example", "*.b.example", "c.b.example"], 2));
        }
        if random.one_in(3) {
            matching["transport_protocol"] = random.pick(&["raw_buffer", "raw_buffer", "tls"]).into();
        }
        if !random.one_in(3) {
            let protocols = ["http/1.1", "h2c", "http/1.0", "h2"];
            matching["application_protocols"] =
                if random.one_in(2) { json!(["http/1.1", "h2c"]) } else { json!(random.some(&protocols, 2)) };
        }
        if random.one_in(8) {
            matching["source_type"] = random.pick(&["SAME_IP_OR_LOOPBACK", "EXTERNAL"]).into();
        }
        let filter = if self.random.one_in(3) { self.tcp_proxy(listener) } else { self.http(listener) };
        json!({"name": format!("chain-{at}"), "filter_chain_match": matching, "filters": [filter]})
    }

    fn tcp_proxy(&mut self, listener: &str) -> Value {
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{TYPES}.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t",
            "cluster": self.random.pick(&CLUSTERS), "access_log": access_log(&self.log, "tcp", listener)}})
    }

    fn http(&mut self, listener: &str) -> Value {
        let mut options = json!({});
        if self.random.one_in(5) {
            options["accept_http_10"] = true.into();
        }
        if self.random.one_in(8) {
            options["default_host_for_http_10"] = "example.com".into();
        }
        if self.random.one_in(8) {
            options["allow_absolute_url"] = false.into();
        }
        let codec = self.random.pick(&["AUTO", "AUTO", "AUTO", "AUTO", "HTTP1", "HTTP2"]);
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h", "codec_type": codec, "http_protocol_options": options,
            "upgrade_configs": self.upgrades(false), "route_config": self.routes(),
            "access_log": access_log(&self.log, "http", listener),
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{TYPES}.http.router.v3.Router")}}]}})
    }

    fn upgrades(&mut self, of_route: bool) -> Value {
        let mut list = Vec::new();
        if self.random.one_in(2) {
            let mut connect = json!({"upgrade_type": self.random.pick(&["CONNECT", "CONNECT", "connect"])});
            if self.random.one_in(4) {
                connect["enabled"] = self.random.one_in(2).into();
            }
            if of_route && self.random.one_in(3) {
                connect["connect_config"] = json!({});
            }
            list.push(connect);
        }
        if self.random.one_in(2) {
            list.push(json!({"upgrade_type": "websocket"}));
        }
        list.into()
    }

    fn routes(&mut self) -> Value {
        let mut free = vec![
            "*",
            "example.com",
            "*.example.com",
            "example.*",
            "example.com:443",
            "[2001:db8::1]",
            "*e.com",
            "www.example.com",
            "w*",
            "*.com",
        ];
        let hosts: Vec<Value> = (0..=self.random.below(3))
            .map(|at| {
                let domains: Vec<&str> =
                    (0..=self.random.below(2)).map(|_| free.remove(self.random.below(free.len()))).collect();
                let routes: Vec<Value> = (0..self.random.below(4)).map(|n| self.route(at, n)).collect();
                json!({"name": format!("host-{at}"), "domains": domains, "routes": routes})
            })
            .collect();
        json!({"name": "inline", "virtual_hosts": hosts, "validate_clusters": false,
            "ignore_port_in_host_matching": self.random.one_in(2)})
    }

    fn route(&mut self, host: usize, at: usize) -> Value {
        let random = &mut self.random;
        let mut matching = match random.below(8) {
            0..3 => json!({"connect_matcher": {}}),
            3 => json!({"prefix": "/p"}),
            4 => json!({"path": "/path"}),
            5 => json!({"safe_regex": {"regex": "/p.*h"}}),
            6 => json!({"path_separated_prefix": "/path"}),
            _ => json!({"prefix": "/"}),
        };
        if random.one_in(4) {
            matching["headers"] = random.pick(&[
                &json!([{"name": "user-agent", "present_match": true}]),
                &json!([{"name": "user-agent", "string_match": {"prefix": "curl"}, "invert_match": true}]),
                &json!([{"name": ":authority", "string_match": {"contains": "example"}}]),
                &json!([{"name": "x-absent", "string_match": {"exact": "a"}, "invert_match": true}]),
                &json!([{"name": ":method", "string_match": {"exact": "connect", "ignore_case": true}}]),
                &json!([{"name": "x-absent", "present_match": false}]),
            ]).clone();
        }
        let mut route = json!({"name": format!("{host}.{at}"), "match": matching});
        match self.random.below(6) {
            0 => route["direct_response"] = json!({"status": 418}),
            1 => route["redirect"] = json!({"host_redirect": "elsewhere", "response_code": "FOUND"}),
            _ => {
                let missing =
                    self.random.pick(&["SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR"]);
                route["route"] = json!({"cluster": self.random.pick(&CLUSTERS), "timeout": "0s",
                    "cluster_not_found_response_code": missing, "upgrade_configs": self.upgrades(true)});
            }
        }
        route
    }
}
