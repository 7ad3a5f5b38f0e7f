//! Route configurations.

use serde_json::{Value, json};

use super::Generator;
use super::clusters::NAMES;

impl Generator {
    pub(super) fn routes(&mut self) -> Value {
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
                self.virtual_host(at, &domains)
            })
            .collect();
        let mut config = json!({"name": "inline", "virtual_hosts": hosts, "validate_clusters": false,
            "ignore_port_in_host_matching": self.random.one_in(2)});
        if self.random.one_in(12) {
            config["typed_per_filter_config"] = self.filter_configs();
        }
        config
    }

    fn virtual_host(&mut self, at: usize, domains: &[&str]) -> Value {
        let routes: Vec<Value> = (0..self.random.below(4)).map(|n| self.route(at, n)).collect();
        let mut host = json!({"name": format!("host-{at}"), "domains": domains, "routes": routes});
        self.random.set(12, &mut host, "require_tls", &["ALL".into(), "EXTERNAL_ONLY".into(), "NONE".into()]);
        if self.random.one_in(8) {
            host["typed_per_filter_config"] = self.filter_configs();
        }
        self.random.set(8, &mut host, "include_request_attempt_count", &[true.into()]);
        if self.random.one_in(14) {
            host["matcher"] = self.route_matcher(at);
            host["routes"] = json!([]);
        }
        host
    }

    /// A match tree over a header, whose action is a route.
    fn route_matcher(&mut self, host: usize) -> Value {
        let mut route = self.route(host, 7);
        route["@type"] = "type.googleapis.com/envoy.config.route.v3.Route".into();
        let value = self.random.pick(&["curl/8.5.0", "other"]);
        json!({"matcher_tree": {
            "input": {"name": "header", "typed_config": {
                "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "user-agent"}},
            "exact_match_map": {"map": {value: {"action": {"name": "route", "typed_config": route}}}}}})
    }

    fn matching(&mut self) -> Value {
        let random = &mut self.random;
        let mut matching = match random.below(8) {
            0..3 => json!({"connect_matcher": {}}),
            3 => json!({"prefix": "/p"}),
            4 => json!({"path": "/path"}),
            5 => json!({"safe_regex": {"regex": "/p.*h"}}),
            6 => json!({"path_separated_prefix": "/path"}),
            _ => json!({"prefix": "/"}),
        };
        random.set(8, &mut matching, "case_sensitive", &[false.into(), true.into()]);
        if matching.get("safe_regex").is_some() {
            matching.as_object_mut().unwrap().remove("case_sensitive");
        }
        random.set(4, &mut matching, "headers", &[
            json!([{"name": "user-agent", "present_match": true}]),
            json!([{"name": "user-agent", "string_match": {"prefix": "curl"}, "invert_match": true}]),
            json!([{"name": ":authority", "string_match": {"contains": "example"}}]),
            json!([{"name": "x-absent", "string_match": {"exact": "a"}, "invert_match": true}]),
            json!([{"name": ":method", "string_match": {"exact": "connect", "ignore_case": true}}]),
            json!([{"name": "x-absent", "present_match": false}]),
            json!([{"name": "user-agent", "string_match": {"suffix": "none"}}]),
            json!([{"name": "user-agent", "string_match": {"safe_regex": {"regex": "curl/[0-9.]+"}}}]),
            json!([{"name": "x-added", "string_match": {"exact": "a"}}]),
            json!([{"name": "x-forwarded-proto", "string_match": {"exact": "http"}}]),
            json!([{"name": "proxy-connection", "present_match": true}]),
            json!([{"name": "x-absent", "string_match": {"exact": ""}, "treat_missing_header_as_empty": true}]),
            json!([{"name": "content-length", "range_match": {"start": 0, "end": 3}}]),
        ]);
        let share = |numerator: u32, denominator: &str| json!({"default_value": {"numerator": numerator, "denominator": denominator}});
        random.set(
            10,
            &mut matching,
            "runtime_fraction",
            &[share(0, "HUNDRED"), share(100, "HUNDRED"), share(10_000, "TEN_THOUSAND")],
        );
        random.set(
            10,
            &mut matching,
            "query_parameters",
            &[
                json!([{"name": "q", "string_match": {"exact": "1"}}]),
                json!([{"name": "q", "present_match": true}]),
                json!([{"name": "q", "present_match": false}]),
            ],
        );
        random.set(
            10,
            &mut matching,
            "cookies",
            &[
                json!([{"name": "user", "string_match": {"exact": "me"}}]),
                json!([{"name": "user", "string_match": {"exact": "me"}, "invert_match": true}]),
            ],
        );
        random.set(
            16,
            &mut matching,
            "tls_context",
            &[json!({"presented": true}), json!({"validated": true}), json!({"presented": false})],
        );
        random.set(16, &mut matching, "grpc", &[json!({})]);
        matching
    }

    fn route(&mut self, host: usize, at: usize) -> Value {
        let mut route = json!({"name": format!("{host}.{at}"), "match": self.matching()});
        match self.random.below(7) {
            0 => route["direct_response"] = json!({"status": 418, "body": {"inline_string": "b"}}),
            1 => {
                let code = self.random.pick(&[
                    "FOUND",
                    "SEE_OTHER",
                    "TEMPORARY_REDIRECT",
                    "PERMANENT_REDIRECT",
                    "MOVED_PERMANENTLY",
                ]);
                route["redirect"] = json!({"host_redirect": "elsewhere", "response_code": code});
            }
            _ => route["route"] = self.action(),
        }
        if self.random.one_in(8) {
            route["typed_per_filter_config"] = self.filter_configs();
        }
        self.random.set(10, &mut route, "request_headers_to_remove", &[json!(["user-agent"])]);
        route
    }

    fn action(&mut self) -> Value {
        let missing = self.random.pick(&["SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR"]);
        let mut action = json!({"timeout": "0s", "cluster_not_found_response_code": missing,
            "upgrade_configs": self.upgrades(true)});
        match self.random.below(8) {
            0 => {
                action["weighted_clusters"] = json!({"clusters": [
                    {"name": "BlackHoleCluster", "weight": 0},
                    {"name": self.random.pick(&NAMES), "weight": 100, "host_rewrite_literal": "h"},
                ]});
            }
            1 => action["cluster_header"] = self.random.pick(&["x-cluster", "user-agent"]).into(),
            _ => action["cluster"] = self.random.pick(&NAMES).into(),
        }
        let labels = |version: &str| json!({"filter_metadata": {"envoy.lb": {"version": version}}});
        self.random.set(8, &mut action, "metadata_match", &[labels("1"), labels("2")]);
        self.random.set(8, &mut action, "host_rewrite_literal", &["other.test".into()]);
        self.random.set(8, &mut action, "prefix_rewrite", &["/rewritten".into()]);
        self.random.set(8, &mut action, "idle_timeout", &["5s".into()]);
        action
    }
}
