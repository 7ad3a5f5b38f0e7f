//! Listeners, filter chains and TCP proxies.

use serde_json::{Value, json};

use super::clusters::NAMES;
use super::{Generator, PORT, TYPES, access_log};

pub(super) fn inspector(which: &str) -> Value {
    let message = if which == "tls" { "TlsInspector" } else { "HttpInspector" };
    json!({"name": format!("envoy.filters.listener.{which}_inspector"), "typed_config": {
        "@type": format!("{TYPES}.listener.{which}_inspector.v3.{message}")}})
}

impl Generator {
    pub(super) fn listener(&mut self, address: &str, kind: &str) -> Value {
        let name = format!("{kind}_{PORT}");
        let chains: Vec<Value> = (0..=self.random.below(4)).map(|at| self.chain(&name, at)).collect();
        let mut listener = json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": name,
            "address": {"socket_address": {"address": address, "port_value": PORT}},
            "listener_filters": self.listener_filters(), "listener_filters_timeout": "0s",
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
        if self.random.one_in(12) {
            listener["filter_chain_matcher"] = self.chain_matcher();
            for chain in listener["filter_chains"].as_array_mut().unwrap() {
                chain.as_object_mut().unwrap().remove("filter_chain_match");
            }
        }
        listener
    }

    fn listener_filters(&mut self) -> Vec<Value> {
        let mut filters = Vec::new();
        if self.random.one_in(3) {
            let mut tls = inspector("tls");
            self.random.set(4, &mut tls["typed_config"], "enable_ja3_fingerprinting", &[true.into()]);
            self.random.set(4, &mut tls["typed_config"], "enable_ja4_fingerprinting", &[true.into()]);
            self.random.set(4, &mut tls["typed_config"], "initial_read_buffer_size", &[512.into()]);
            filters.push(tls);
        }
        if !self.random.one_in(4) {
            let mut http = inspector("http");
            let port = |start: u16, end: u16| json!({"destination_port_range": {"start": start, "end": end}});
            let predicates = [
                json!({"any_match": true}),
                json!({"not_match": {"any_match": true}}),
                port(1, 100),
                port(100, 65535),
                json!({"or_match": {"rules": [port(1, 100), port(100, 65535)]}}),
                json!({"and_match": {"rules": [port(1, 100), port(100, 65535)]}}),
            ];
            self.random.set(6, &mut http, "filter_disabled", &predicates);
            filters.push(http);
        }
        if self.random.one_in(12) {
            let optional = self.random.one_in(2);
            filters.insert(
                0,
                json!({"name": "envoy.filters.listener.proxy_protocol", "typed_config": {
                "@type": format!("{TYPES}.listener.proxy_protocol.v3.ProxyProtocol"),
                "allow_requests_without_proxy_protocol": optional, "stat_prefix": "p"}}),
            );
        }
        filters
    }

    /// A match tree over what the inspectors found, whose actions name chains.
    fn chain_matcher(&mut self) -> Value {
        let action = |name: &str| {
            json!({"action": {"name": "chain", "typed_config": {
                "@type": "type.googleapis.com/google.protobuf.StringValue", "value": name}}})
        };
        let (kind, key) = self
            .random
            .choose(&[
                json!(["ApplicationProtocolInput", "'http/1.1'"]),
                json!(["TransportProtocolInput", "raw_buffer"]),
                json!(["DestinationPortInput", PORT.to_string()]),
                json!(["DestinationIPInput", "10.1.0.1"]),
            ])
            .as_array()
            .map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned()))
            .unwrap();
        json!({
            "matcher_tree": {
                "input": {"name": "input", "typed_config": {
                    "@type": format!("type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{kind}")}},
                "exact_match_map": {"map": {key: action("chain-0")}},
            },
            "on_no_match": action(self.random.pick(&["chain-0", "chain-1", "no-such-chain"])),
        })
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
        random.set(8, &mut matching, "source_type", &["SAME_IP_OR_LOOPBACK".into(), "EXTERNAL".into()]);
        // No dump has the app's own address, so rules on it are taken not to match; these never do.
        let elsewhere = [json!([{"address_prefix": "192.168.0.0", "prefix_len": 16}])];
        random.set(12, &mut matching, "source_prefix_ranges", &elsewhere);
        random.set(12, &mut matching, "direct_source_prefix_ranges", &elsewhere);
        random.set(12, &mut matching, "source_ports", &[json!([7])]);
        let mut filters = Vec::new();
        if self.random.one_in(10) {
            filters.push(self.network_filter());
        }
        filters.push(match self.random.below(30) {
            0 => json!({"name": "envoy.filters.network.direct_response", "typed_config": {
                "@type": format!("{TYPES}.network.direct_response.v3.Config"),
                "response": {"inline_string": "HTTP/1.1 200 OK\r\n\r\n"}}}),
            1..11 => self.tcp_proxy(listener),
            _ => self.http(listener),
        });
        let mut chain =
            json!({"name": format!("chain-{at}"), "filter_chain_match": matching, "filters": filters});
        let raw = json!({"name": "raw", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}});
        let statistics = json!({"name": "statistics", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tcp_stats.v3.Config",
            "transport_socket": raw, "update_period": "5s"}});
        self.random.set(8, &mut chain, "transport_socket", &[raw, statistics]);
        chain
    }

    /// A filter before the one that handles the connection.
    fn network_filter(&mut self) -> Value {
        let any = json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
        let rbac = |rules: Value| {
            json!({"name": "envoy.filters.network.rbac", "typed_config": {
                "@type": format!("{TYPES}.network.rbac.v3.RBAC"), "stat_prefix": "r", "rules": rules}})
        };
        let cluster = self.random.pick(&["static", "two", "BlackHoleCluster"]);
        self.random.choose(&[
            rbac(json!({"action": "DENY", "policies": {"all": any}})),
            rbac(json!({"action": "ALLOW", "policies": {"all": any}})),
            rbac(json!({"action": "ALLOW", "policies": {}})),
            rbac(json!({"action": "DENY", "policies": {}})),
            json!({"name": "envoy.filters.network.set_filter_state", "typed_config": {
                "@type": format!("{TYPES}.network.set_filter_state.v3.Config"),
                "on_new_connection": [{"object_key": "envoy.tcp_proxy.cluster", "format_string": {
                    "text_format_source": {"inline_string": cluster}}}]}}),
        ])
    }

    fn tcp_proxy(&mut self, listener: &str) -> Value {
        let mut config = json!({
            "@type": format!("{TYPES}.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t",
            "access_log": access_log(&self.log, "tcp", listener)});
        if self.random.one_in(5) {
            // Envoy takes no weight of zero here; both are the same cluster, so that which is drawn makes no difference.
            let name = self.random.pick(&NAMES);
            config["weighted_clusters"] =
                json!({"clusters": [{"name": name, "weight": 1}, {"name": name, "weight": 5}]});
        } else {
            config["cluster"] = self.random.pick(&NAMES).into();
        }
        let labels = |version: &str| json!({"filter_metadata": {"envoy.lb": {"version": version}}});
        self.random.set(6, &mut config, "metadata_match", &[labels("1"), labels("2")]);
        self.random.set(30, &mut config, "tunneling_config", &[json!({"hostname": "far.test:443"})]);
        self.random.set(20, &mut config, "max_connect_attempts", &[1.into()]);
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
    }
}
