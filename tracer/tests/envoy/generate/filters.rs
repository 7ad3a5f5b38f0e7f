//! HTTP connection managers and their HTTP filters.

use serde_json::{Value, json};

use super::{Generator, TYPES, access_log};

impl Generator {
    pub(super) fn http(&mut self, listener: &str) -> Value {
        let mut options = json!({});
        let random = &mut self.random;
        random.set(5, &mut options, "accept_http_10", &[true.into()]);
        random.set(8, &mut options, "default_host_for_http_10", &["example.com".into()]);
        random.set(8, &mut options, "allow_absolute_url", &[false.into()]);
        random.set(16, &mut options, "allow_chunked_length", &[true.into()]);
        random.set(16, &mut options, "enable_trailers", &[true.into()]);
        let mut common = json!({});
        let actions = ["REJECT_REQUEST".into(), "DROP_HEADER".into(), "ALLOW".into()];
        random.set(8, &mut common, "headers_with_underscores_action", &actions);
        random.set(16, &mut common, "max_headers_count", &[3.into(), 50.into()]);
        let codec = random.pick(&["AUTO", "AUTO", "AUTO", "AUTO", "HTTP1", "HTTP2"]);
        let mut config = json!({
            "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h", "codec_type": codec, "http_protocol_options": options,
            "common_http_protocol_options": common,
            "access_log": access_log(&self.log, "http", listener)});
        random.set(8, &mut config, "strip_matching_host_port", &[true.into()]);
        if config.get("strip_matching_host_port").is_none() {
            random.set(8, &mut config, "strip_any_host_port", &[true.into()]);
        }
        random.set(12, &mut config, "strip_trailing_host_dot", &[true.into()]);
        random.set(4, &mut config, "normalize_path", &[true.into(), false.into()]);
        random.set(6, &mut config, "merge_slashes", &[true.into()]);
        random.set(
            8,
            &mut config,
            "path_with_escaped_slashes_action",
            &[
                "REJECT_REQUEST".into(),
                "UNESCAPE_AND_REDIRECT".into(),
                "UNESCAPE_AND_FORWARD".into(),
                "KEEP_UNCHANGED".into(),
            ],
        );
        random.set(8, &mut config, "use_remote_address", &[true.into(), false.into()]);
        random.set(20, &mut config, "max_request_headers_kb", &[1.into(), 96.into()]);
        let statuses = |op: &str, value: u16, to: u16| {
            json!({"mappers": [{"filter": {"status_code_filter": {"comparison": {"op": op, "value": {
                "default_value": value, "runtime_key": "none"}}}}, "status_code": to}]})
        };
        random.set(
            10,
            &mut config,
            "local_reply_config",
            &[statuses("EQ", 404, 503), statuses("GE", 400, 500), statuses("LE", 403, 418)],
        );
        let mutations = |list: Value| {
            json!([{"name": "envoy.http.early_header_mutation.header_mutation", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": list}}])
        };
        random.set(10, &mut config, "early_header_mutation_extensions", &[
            mutations(json!([{"remove": "user-agent"}])),
            mutations(json!([{"append": {"header": {"key": "x-added", "value": "a"}, "append_action": "ADD_IF_ABSENT"}}])),
            mutations(json!([{"append": {"header": {"key": "user-agent", "value": "none"},
                "append_action": "OVERWRITE_IF_EXISTS"}}])),
        ]);
        config["upgrade_configs"] = self.upgrades(false);
        config["http_filters"] = self.http_filters();
        if self.random.one_in(12) {
            config["scoped_routes"] = self.scoped_routes();
        } else {
            config["route_config"] = self.routes();
        }
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
    }

    fn scoped_routes(&mut self) -> Value {
        let scopes: Vec<Value> = ["curl/8.5.0", "a"]
            .iter()
            .map(|key| {
                json!({"name": format!("scope-{key}"), "route_configuration": self.routes(),
                    "key": {"fragments": [{"string_key": key}]}})
            })
            .collect();
        json!({"name": "scopes",
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "user-agent", "index": 0}}]},
            "scoped_route_configurations_list": {"scoped_route_configurations": scopes}})
    }

    fn http_filters(&mut self) -> Value {
        let mut filters = Vec::new();
        if self.random.one_in(4) {
            let mut fault = json!({"name": "envoy.filters.http.fault", "typed_config": Self::fault(0)});
            fault["typed_config"] = self.some_fault();
            self.random.set(6, &mut fault, "disabled", &[true.into()]);
            filters.push(fault);
        }
        if self.random.one_in(5) {
            filters.push(json!({"name": "envoy.filters.http.rbac", "typed_config": self.some_rbac()}));
        }
        if self.random.one_in(5) {
            filters.push(json!({"name": "envoy.filters.http.cors", "typed_config": {
                "@type": format!("{TYPES}.http.cors.v3.Cors")}}));
        }
        let mut router = json!({"name": "envoy.filters.http.router", "typed_config": {
            "@type": format!("{TYPES}.http.router.v3.Router")}});
        self.random.set(8, &mut router["typed_config"], "suppress_envoy_headers", &[true.into()]);
        filters.push(router);
        filters.into()
    }

    fn fault(percent: u32) -> Value {
        json!({"@type": format!("{TYPES}.http.fault.v3.HTTPFault"),
            "abort": {"http_status": 555, "percentage": {"numerator": percent, "denominator": "HUNDRED"}}})
    }

    fn some_fault(&mut self) -> Value {
        let none = json!({"@type": format!("{TYPES}.http.fault.v3.HTTPFault")});
        self.random.choose(&[none.clone(), none, Self::fault(0), Self::fault(100)])
    }

    fn some_rbac(&mut self) -> Value {
        let any = json!({"permissions": [{"any": true}], "principals": [{"any": true}]});
        let rules = self.random.choose(&[
            json!({"action": "DENY", "policies": {"all": any}}),
            json!({"action": "ALLOW", "policies": {"all": any}}),
            json!({"action": "ALLOW", "policies": {}}),
            json!({"action": "DENY", "policies": {}}),
            json!({"action": "LOG", "policies": {"all": any}}),
        ]);
        json!({"@type": format!("{TYPES}.http.rbac.v3.RBAC"), "rules": rules})
    }

    /// What a route or a virtual host puts in the place of the listener's filters.
    pub(super) fn filter_configs(&mut self) -> Value {
        let off =
            json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
        let rbac = json!({"@type": format!("{TYPES}.http.rbac.v3.RBACPerRoute"),
            "rbac": {"rules": self.some_rbac()["rules"]}});
        let mut configs = json!({});
        let fault = self.some_fault();
        self.random.set(3, &mut configs, "envoy.filters.http.fault", &[fault, off.clone()]);
        self.random.set(3, &mut configs, "envoy.filters.http.rbac", &[rbac, off]);
        configs
    }

    pub(super) fn upgrades(&mut self, of_route: bool) -> Value {
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
}
