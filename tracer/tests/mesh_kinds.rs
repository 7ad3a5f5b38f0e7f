//! Further cases of each kind of fault in `tests/faults`, asked of a real Envoy: all of them in one Envoy, each on a port of its
//! own. The kinds whose judge is istiod are in the situations of `tests/mesh`.

#![allow(clippy::needless_pass_by_value, reason = "the parts of a JSON value are moved into it")]
#![allow(dead_code, reason = "the generator of the envoy module belongs to another test")]

mod envoy;

use std::net::SocketAddr;

use envoy::generate::{clusters::clusters, entry};
use envoy::world::{PORT, World, evaluated, fault, observed};
use envoy::{HOST_PORTS, Pod, access_log};
use serde_json::{Value, json};
use tracer_mesh::CURL_CONNECT;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
const GET: &str = "GET /path HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/8.5.0\r\n\r\n";

/// One case: its kind, what is odd about it, the listener, and the app's first bytes.
struct Case {
    kind: &'static str,
    what: &'static str,
    listener: Value,
    head: Vec<u8>,
}

struct Table<'p> {
    pod: &'p Pod,
    cases: Vec<Case>,
}

/// `base` with the members of `more` put over it.
fn with(mut base: Value, more: Value) -> Value {
    if let Value::Object(more) = more {
        for (key, value) in more {
            base[key] = value;
        }
    }
    base
}

fn typed(name: &str, kind: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": with(json!({"@type": format!("{TYPES}.{kind}")}), config)})
}

fn inspector() -> Value {
    typed("http_inspector", "filters.listener.http_inspector.v3.HttpInspector", json!({}))
}

fn router() -> Value {
    typed("envoy.filters.http.router", "filters.http.router.v3.Router", json!({}))
}

fn fault_filter(config: Value) -> Value {
    typed("envoy.filters.http.fault", "filters.http.fault.v3.HTTPFault", config)
}

fn abort(percent: u32) -> Value {
    json!({"@type": format!("{TYPES}.filters.http.fault.v3.HTTPFault"),
        "abort": {"http_status": 555, "percentage": {"numerator": percent}}})
}

/// A route that takes a CONNECT and forwards it.
fn connect_route(more: Value) -> Value {
    let route = json!({"cluster": "two", "upgrade_configs": [{"upgrade_type": "CONNECT"}]});
    with(json!({"name": "connect", "match": {"connect_matcher": {}}, "route": route}), more)
}

fn get_route(matching: Value, cluster: &str) -> Value {
    json!({"name": "get", "match": matching, "route": {"cluster": cluster}})
}

fn hosts(routes: Value, more: Value) -> Value {
    let host = with(json!({"name": "all", "domains": ["*"], "routes": routes}), more);
    json!({"route_config": {"name": "inline", "virtual_hosts": [host], "validate_clusters": false}})
}

fn any_rule() -> Value {
    json!({"permissions": [{"any": true}], "principals": [{"any": true}]})
}

impl Table<'_> {
    fn add(&mut self, kind: &'static str, what: &'static str, head: &str, listener: Value) {
        self.cases.push(Case { kind, what, listener, head: head.as_bytes().to_vec() });
    }

    /// A listener on every address with these chains.
    fn listener(&self, chains: Value, more: Value) -> Value {
        let name = format!("any_{PORT}");
        with(
            json!({"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": name,
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": PORT}}, "bind_to_port": false,
                "listener_filters": [inspector()], "listener_filters_timeout": "0s",
                "access_log": access_log(&self.pod.file("access.log"), "listener", &name), "filter_chains": chains}),
            more,
        )
    }

    fn tcp(&self, config: Value) -> Value {
        let log = access_log(&self.pod.file("access.log"), "tcp", &format!("any_{PORT}"));
        typed(
            "envoy.filters.network.tcp_proxy",
            "filters.network.tcp_proxy.v3.TcpProxy",
            with(json!({"stat_prefix": "t", "access_log": log}), config),
        )
    }

    fn hcm(&self, config: Value) -> Value {
        let log = access_log(&self.pod.file("access.log"), "http", &format!("any_{PORT}"));
        let base = json!({"stat_prefix": "h", "access_log": log, "http_filters": [router()]});
        typed(
            "envoy.filters.network.http_connection_manager",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            with(base, config),
        )
    }

    fn chain(&self, filters: Value) -> Value {
        self.listener(json!([{"name": "chain-0", "filters": filters}]), json!({}))
    }

    fn http(&mut self, kind: &'static str, what: &'static str, head: &str, config: Value) {
        let listener = self.chain(json!([self.hcm(config)]));
        self.add(kind, what, head, listener);
    }

    fn connections(&mut self) {
        let connect = std::str::from_utf8(CURL_CONNECT).unwrap();
        for (kind, what, cluster) in [
            ("sent_elsewhere", "a cluster of two other hosts", json!({"cluster": "two"})),
            ("sent_elsewhere", "another port of the dialed address", json!({"cluster": "other-port"})),
            ("load", "a limit of no connection", json!({"cluster": "limited"})),
            ("no_host", "unhealthy, without panic", json!({"cluster": "sick"})),
            ("no_host", "unhealthy, in panic", json!({"cluster": "panic"})),
            ("proxy_protocol", "a header before the bytes", json!({"cluster": "proxy-protocol"})),
            ("socket_wrapper", "statistics around a raw buffer", json!({"cluster": "statistics"})),
            ("socket_wrapper", "a plain socket by the host's label", json!({"cluster": "labeled"})),
            ("tls_of_another_object", "TLS to a host", json!({"cluster": "tls"})),
            (
                "weights",
                "two weights of one cluster",
                json!({"weighted_clusters": {"clusters": [
                {"name": "two", "weight": 1}, {"name": "two", "weight": 9}]}}),
            ),
        ] {
            let listener = self.chain(json!([self.tcp(cluster)]));
            self.add(kind, what, connect, listener);
        }
        let labels = |version: &str| json!({"filter_metadata": {"envoy.lb": {"version": version}}});
        for (what, cluster, version) in [
            ("a subset that has a host", "subset", "1"),
            ("a subset without a host that falls back to any", "subset-any", "2"),
        ] {
            let proxy = self.tcp(json!({"cluster": cluster, "metadata_match": labels(version)}));
            let listener = self.chain(json!([proxy]));
            self.add("no_host", what, connect, listener);
        }
        let state = |cluster: &str| {
            typed(
                "envoy.filters.network.set_filter_state",
                "filters.network.set_filter_state.v3.Config",
                json!({"on_new_connection": [{"object_key": "envoy.tcp_proxy.cluster", "format_string": {
                    "text_format_source": {"inline_string": cluster}}}]}),
            )
        };
        for (what, cluster) in [("to a cluster of hosts", "two"), ("to one that does not exist", "missing")] {
            let listener =
                self.chain(json!([state(cluster), self.tcp(json!({"cluster": "BlackHoleCluster"}))]));
            self.add("cluster_at_run_time", what, connect, listener);
        }
        let rbac = |action: &str, policies: Value| {
            typed(
                "envoy.filters.network.rbac",
                "filters.network.rbac.v3.RBAC",
                json!({"stat_prefix": "r", "rules": {"action": action, "policies": policies}}),
            )
        };
        for (what, filter) in [
            ("RBAC that denies all", rbac("DENY", json!({"all": any_rule()}))),
            ("RBAC that allows all", rbac("ALLOW", json!({"all": any_rule()}))),
            ("RBAC that allows none", rbac("ALLOW", json!({}))),
        ] {
            let listener = self.chain(json!([filter, self.tcp(json!({"cluster": "two"}))]));
            self.add("network_filter", what, connect, listener);
        }
        let range = |start: u16, end: u16| json!({"destination_port_range": {"start": start, "end": end}});
        let optional = typed(
            "envoy.filters.listener.proxy_protocol",
            "filters.listener.proxy_protocol.v3.ProxyProtocol",
            json!({"allow_requests_without_proxy_protocol": true}),
        );
        for (what, filters) in [
            (
                "disabled by two rules",
                json!([with(
                    inspector(),
                    json!({"filter_disabled": {"and_match": {
                "rules": [range(1, 65535), {"not_match": range(1, 100)}]}}})
                )]),
            ),
            ("an optional PROXY header that is not there", json!([optional, inspector()])),
        ] {
            let chains = json!([
                {"name": "http", "filter_chain_match": {"application_protocols": ["http/1.1"]},
                    "filters": [self.hcm(hosts(json!([]), json!({})))]},
                {"name": "tcp", "filters": [self.tcp(json!({"cluster": "two"}))]},
            ]);
            let listener = self.listener(chains, json!({"listener_filters": filters}));
            self.add("listener_filters", what, connect, listener);
        }
        for (what, matching) in [
            ("the source is not local", json!({"source_type": "EXTERNAL"})),
            ("the source is local", json!({"source_type": "SAME_IP_OR_LOOPBACK"})),
        ] {
            let chains = json!([
                {"name": "http", "filter_chain_match": matching, "filters": [self.hcm(hosts(json!([]), json!({})))]},
                {"name": "tcp", "filters": [self.tcp(json!({"cluster": "two"}))]},
            ]);
            let listener = self.listener(chains, json!({}));
            self.add("filter_chain", what, connect, listener);
        }
        let action = |name: &str| {
            json!({"action": {"name": "chain", "typed_config": {
            "@type": "type.googleapis.com/google.protobuf.StringValue", "value": name}}})
        };
        for (what, name) in [("a name that no chain has", "none"), ("the second chain", "tcp")] {
            let chains = json!([
                {"name": "http", "filters": [self.hcm(hosts(json!([]), json!({})))]},
                {"name": "tcp", "filters": [self.tcp(json!({"cluster": "two"}))]},
            ]);
            let tree = json!({"matcher_tree": {
                "input": {"name": "i", "typed_config": {
                    "@type": format!("{TYPES}.matching.common_inputs.network.v3.ApplicationProtocolInput")}},
                "exact_match_map": {"map": {"'http/1.1'": action(name)}}}});
            let default = json!({"name": "default", "filters": [self.tcp(json!({"cluster": "static"}))]});
            let more = json!({"filter_chain_matcher": tree, "default_filter_chain": default});
            let listener = self.listener(chains, more);
            self.add("filter_chain", what, connect, listener);
        }
    }

    fn requests(&mut self) {
        let connect = std::str::from_utf8(CURL_CONNECT).unwrap();
        let header = |line: &str| connect.replace("User-Agent", &format!("{line}\r\nUser-Agent"));
        let any = || json!([connect_route(json!({})), get_route(json!({"prefix": "/"}), "two")]);
        let by_header = |name: &str| {
            json!([connect_route(
                json!({"match": {"connect_matcher": {}, "headers": [{"name": name, "present_match": true}]}})
            )])
        };
        let common = |action: &str| json!({"common_http_protocol_options": {"headers_with_underscores_action": action}});
        let early = |mutation: Value| {
            json!({"early_header_mutation_extensions": [typed("envoy.http.early_header_mutation.header_mutation",
                "http.early_header_mutation.header_mutation.v3.HeaderMutation", json!({"mutations": [mutation]}))]})
        };
        let mapped = json!({"local_reply_config": {"mappers": [{"filter": {"status_code_filter": {"comparison": {
            "op": "GE", "value": {"default_value": 426, "runtime_key": "none"}}}}, "status_code": 503}]}});
        let per_host =
            |config: Value| json!({"typed_per_filter_config": {"envoy.filters.http.fault": config}});
        let off =
            || json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
        let faulty = |config: Value| json!({"http_filters": [fault_filter(config), router()]});
        let cookie = |value: &str| json!([{"name": "user", "string_match": {"exact": value}}]);
        let http_1_0 = connect.replace("HTTP/1.1", "HTTP/1.0");
        let slashes = GET.replace("/path", "//path//more");
        let escaped = GET.replace("/path", "/a%2Fb");
        let over_tls = GET.replace("User-Agent", "X-Forwarded-Proto: https\r\nUser-Agent");
        let cases: Vec<(&'static str, &'static str, String, Value)> = vec![
            (
                "cluster_at_run_time",
                "the header names a cluster",
                header("X-Cluster: two"),
                hosts(
                    json!([connect_route(
                        json!({"route": {"cluster_header": "x-cluster", "upgrade_configs": [{"upgrade_type": "CONNECT"}]}})
                    )]),
                    json!({}),
                ),
            ),
            (
                "connection_manager",
                "a header with an underscore is dropped",
                header("X_Under: a"),
                with(hosts(by_header("x_under"), json!({})), common("DROP_HEADER")),
            ),
            ("connection_manager", "426 becomes 503", http_1_0, with(hosts(any(), json!({})), mapped)),
            (
                "request_changed",
                "the header is removed early",
                header("X-Gone: a"),
                with(hosts(by_header("x-gone"), json!({})), early(json!({"remove": "x-gone"}))),
            ),
            (
                "request_changed",
                "an absent header is not overwritten",
                connect.to_owned(),
                with(
                    hosts(by_header("x-set"), json!({})),
                    early(
                        json!({"append": {"header": {"key": "x-set", "value": "a"}, "append_action": "OVERWRITE_IF_EXISTS"}}),
                    ),
                ),
            ),
            (
                "path",
                "slashes are merged",
                slashes,
                with(
                    hosts(json!([get_route(json!({"path": "/path/more"}), "two")]), json!({})),
                    json!({"merge_slashes": true}),
                ),
            ),
            (
                "path",
                "an escaped slash is one",
                escaped.clone(),
                with(
                    hosts(json!([get_route(json!({"path": "/a/b"}), "two")]), json!({})),
                    json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}),
                ),
            ),
            (
                "path",
                "an escaped slash is redirected",
                escaped,
                with(
                    hosts(json!([get_route(json!({"path": "/a/b"}), "two")]), json!({})),
                    json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"}),
                ),
            ),
            (
                "require_tls",
                "the request did not come over TLS",
                GET.to_owned(),
                hosts(any(), json!({"require_tls": "ALL"})),
            ),
            (
                "require_tls",
                "the request says that it did",
                over_tls.clone(),
                hosts(any(), json!({"require_tls": "ALL"})),
            ),
            (
                "require_tls",
                "the request says so to an edge",
                over_tls,
                with(hosts(any(), json!({"require_tls": "ALL"})), json!({"use_remote_address": true})),
            ),
            (
                "route_filters",
                "a fault of the virtual host",
                connect.to_owned(),
                with(hosts(any(), per_host(abort(100))), faulty(json!({}))),
            ),
            (
                "route_filters",
                "a fault that the virtual host switches off",
                connect.to_owned(),
                with(
                    hosts(any(), per_host(off())),
                    faulty(json!({"abort": {"http_status": 555, "percentage": {"numerator": 100}}})),
                ),
            ),
            (
                "route_filters",
                "a filter that is disabled, and the route says nothing",
                connect.to_owned(),
                with(
                    hosts(any(), json!({})),
                    json!({"http_filters": [with(fault_filter(abort(100)), json!({"disabled": true})), router()]}),
                ),
            ),
            (
                "route_match",
                "a query parameter",
                GET.replace("/path", "/path?q=1"),
                hosts(
                    json!([get_route(
                        json!({"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}]}),
                        "two"
                    )]),
                    json!({}),
                ),
            ),
            (
                "route_match",
                "a cookie that is another",
                header("Cookie: user=you"),
                hosts(
                    json!([connect_route(
                        json!({"match": {"connect_matcher": {}, "cookies": cookie("me")}})
                    )]),
                    json!({}),
                ),
            ),
            (
                "route_match",
                "all of the requests",
                connect.to_owned(),
                hosts(
                    json!([connect_route(json!({"match": {"connect_matcher": {},
                "runtime_fraction": {"default_value": {"numerator": 10_000, "denominator": "TEN_THOUSAND"}}}}))]),
                    json!({}),
                ),
            ),
            (
                "virtual_host",
                "a CONNECT keeps its port",
                connect.to_owned(),
                with(
                    hosts(any(), json!({"domains": ["example.com"]})),
                    json!({"strip_matching_host_port": true}),
                ),
            ),
            (
                "virtual_host",
                "a dot at the end is stripped",
                connect.replace("example.com:443", "example.com.:443"),
                with(
                    hosts(any(), json!({"domains": ["example.com:443"]})),
                    json!({"strip_trailing_host_dot": true}),
                ),
            ),
            (
                "weights",
                "a weight of zero",
                connect.to_owned(),
                hosts(
                    json!([connect_route(json!({"route": {
                "upgrade_configs": [{"upgrade_type": "CONNECT"}], "weighted_clusters": {"clusters": [
                    {"name": "BlackHoleCluster", "weight": 0}, {"name": "two", "weight": 100}]}}}))]),
                    json!({}),
                ),
            ),
            (
                "load",
                "a limit of no request",
                GET.to_owned(),
                hosts(json!([get_route(json!({"prefix": "/"}), "limited")]), json!({})),
            ),
            (
                "proxy_protocol",
                "before a request of Envoy's own",
                GET.to_owned(),
                hosts(json!([get_route(json!({"prefix": "/"}), "proxy-protocol")]), json!({})),
            ),
            (
                "wrong_sentence",
                "a domain for the name without the port",
                connect.to_owned(),
                hosts(any(), json!({"domains": ["example.com"]})),
            ),
            (
                "wrong_sentence",
                "another domain",
                GET.to_owned(),
                hosts(any(), json!({"domains": ["other.test"]})),
            ),
            ("incomplete", "routes within the listener", GET.to_owned(), hosts(any(), json!({}))),
            ("incomplete", "no route at all", connect.to_owned(), hosts(json!([]), json!({}))),
        ];
        for (kind, what, head, config) in cases {
            self.http(kind, what, &head, config);
        }
        let scopes = |keys: &[&str], extractor: Value| {
            let list: Vec<Value> = keys
                .iter()
                .map(|key| {
                    let routes = hosts(any(), json!({}));
                    json!({"name": key, "route_configuration": routes["route_config"], "key": {"fragments": [{"string_key": key}]}})
                })
                .collect();
            json!({"scoped_routes": {"name": "s", "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]},
                "scoped_route_configurations_list": {"scoped_route_configurations": list}}})
        };
        let by_element =
            json!({"name": "x-scope", "element_separator": ",", "element": {"separator": "=", "key": "b"}});
        let by_index = json!({"name": "x-scope", "element_separator": ",", "index": 1});
        self.http(
            "virtual_host",
            "a scope by an element",
            &header("X-Scope: a=1,b=2"),
            scopes(&["1", "2"], by_element),
        );
        self.http(
            "virtual_host",
            "no scope at this index",
            &header("X-Scope: a,b"),
            scopes(&["a"], by_index),
        );
    }
}

#[test]
fn further_cases_of_each_kind_are_decided_as_envoy_decides_them() {
    let pod = Pod::capturing((20_000..20_100).chain(HOST_PORTS));
    let mut table = Table { pod: &pod, cases: Vec::new() };
    table.connections();
    table.requests();
    let cases = table.cases;
    let worlds: Vec<World> = cases
        .iter()
        .map(|case| World {
            listeners: json!([case.listener]),
            to: "10.1.0.1:4242".parse().unwrap(),
            head: case.head.clone(),
            unmodeled: None,
        })
        .collect();
    let mut listeners = vec![entry(&pod.file("access.log"), false)];
    let mut clients: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for (world, port) in worlds.iter().zip(20_000..) {
        let (mut own, to) = world.at(port);
        listeners.append(&mut own);
        clients.push((to, world.head.clone()));
    }
    let envoy = pod.envoy(&listeners, &clusters());
    let dump = envoy.dump();
    let mut wrong = Vec::new();
    for (((case, world), (to, head)), (talk, lines)) in
        cases.iter().zip(&worlds).zip(&clients).zip(envoy.dial(&clients))
    {
        let seen = observed(&envoy, head, &lines, &talk);
        let said = evaluated(&dump, *to, head);
        // A listener that Envoy refused is no case.
        let is_taken = seen.listener.is_some();
        let is_certain = said.as_ref().is_ok_and(|said| said.decision.certain);
        if !is_taken || !is_certain || fault(world, &seen, &said).is_some() {
            let caveats = said.as_ref().map(|said| said.decision.caveats.clone());
            let fault = fault(world, &seen, &said);
            wrong.push(format!("{}, {}: Envoy {seen:?}, ours {fault:?} {caveats:?}", case.kind, case.what));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let kinds: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.kind).collect();
    println!("{} cases of {} kinds", cases.len(), kinds.len());
}
