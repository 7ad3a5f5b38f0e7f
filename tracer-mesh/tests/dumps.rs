//! Dumps of other shapes than the cases have: camel case, one resource, bare lists, old spellings, several sections of a
//! type, entries that are not in use, IPv6, other entry ports, and the dumps of old Istio releases.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files and variables")]

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tracer_mesh::{ConnectionOutcome, Dump, Kind, decide, explain};

const CONNECT: &[u8] = tracer_mesh::CURL_CONNECT;

fn case(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let path = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let path =
        path.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).unwrap();
    serde_json::from_str(&std::fs::read_to_string(path.join("config_dump.json")).unwrap()).unwrap()
}

fn load(value: &Value) -> Dump {
    Dump::load(value.to_string()).unwrap()
}

fn camel(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut camel_members = serde_json::Map::new();
            for (key, child) in members {
                let mut words = key.split('_');
                let mut name = words.next().unwrap_or_default().to_owned();
                for word in words {
                    name.push_str(&word[..1].to_uppercase());
                    name.push_str(&word[1..]);
                }
                // What is keyed by data keeps its spelling.
                let child = if key == "filter_metadata" { child.clone() } else { camel(child) };
                camel_members.insert(name, child);
            }
            Value::Object(camel_members)
        }
        Value::Array(items) => items.iter().map(camel).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn section<'v>(dump: &'v mut Value, kind: &str) -> &'v mut Value {
    let sections = dump["configs"].as_array_mut().unwrap();
    sections.iter_mut().find(|section| section["@type"].as_str().unwrap().ends_with(kind)).unwrap()
}

fn proxy() -> SocketAddr {
    "10.0.0.1:3128".parse().unwrap()
}

#[test]
fn camel_case_is_the_same_dump() {
    for name in ["c01", "c03", "c11", "c12", "c13", "c23"] {
        let snake = case(name);
        let expected = decide(&load(&snake), proxy(), CONNECT).unwrap();
        assert_eq!(decide(&load(&camel(&snake)), proxy(), CONNECT).unwrap(), expected, "{name}");
    }
}

#[test]
fn resources_may_come_without_their_section() {
    let mut dump = case("c01");
    let listeners = section(&mut dump, "ListenersConfigDump")["dynamic_listeners"].take();
    let typed: Vec<Value> = listeners
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let mut entry = entry.clone();
            entry["@type"] = "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener".into();
            entry
        })
        .collect();
    let bare: Vec<&Value> =
        listeners.as_array().unwrap().iter().map(|e| &e["active_state"]["listener"]).collect();
    for dump in [json!({"configs": typed}), json!(bare)] {
        let decision = decide(&load(&dump), proxy(), CONNECT).unwrap();
        assert_eq!((decision.listener.as_deref(), decision.kind), (Some("0.0.0.0_3128"), Kind::Http));
        assert!(
            decision.caveats.iter().any(|caveat| caveat.contains("no route configurations")),
            "{decision:?}"
        );
    }
}

#[test]
fn entries_that_are_not_in_use_are_left_out() {
    let mut dump = case("c03");
    let entries = section(&mut dump, "ListenersConfigDump")["dynamic_listeners"].as_array_mut().unwrap();
    for entry in entries.iter_mut().filter(|entry| entry["name"] == "10.0.0.1_3128") {
        let state = entry.as_object_mut().unwrap().remove("active_state").unwrap();
        entry["warming_state"] = state.clone();
        entry["draining_state"] = state;
        entry["error_state"] = json!({"details": "refused"});
    }
    entries.push(json!({"error_state": {"details": "nameless"}}));
    assert_eq!(decide(&load(&dump), proxy(), CONNECT).unwrap().listener.as_deref(), Some("0.0.0.0_3128"));
}

#[test]
fn several_sections_of_a_type_are_one() {
    let mut dump = case("c01");
    let routes = section(&mut dump, "RoutesConfigDump").clone();
    section(&mut dump, "RoutesConfigDump")["dynamic_route_configs"] = json!([{"route_config": {}}]);
    dump["configs"].as_array_mut().unwrap().push(routes);
    assert_eq!(decide(&load(&dump), proxy(), CONNECT).unwrap().virtual_host.as_deref(), Some("allow_any"));
}

#[test]
fn old_spellings_are_read() {
    let old = json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v2alpha.ListenersConfigDump",
    "dynamic_active_listeners": [], "static_listeners": [
        {"listener": {"name": "virtual", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15001}},
            "hidden_envoy_deprecated_use_original_dst": true,
            "filter_chains": [{"filters": [{"name": "envoy.tcp_proxy", "config": {"cluster": "PassthroughCluster"}}]}]}},
        {"listener": {"name": "0.0.0.0_3128", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 3128}},
            "deprecated_v1": {"bind_to_port": false},
            "filter_chains": [{"filters": [{"name": "envoy.http_connection_manager", "config": {
                "route_config": {"virtual_hosts": [{"name": "block_all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 502}}]}]},
                "http_filters": [{"name": "envoy.router"}]}}]}]}}]}]});
    let decision = decide(&load(&old), proxy(), CONNECT).unwrap();
    assert_eq!((decision.status, decision.details.as_deref()), (Some(404), Some("route_not_found")));
    let get = decide(&load(&old), proxy(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((get.status, get.details.as_deref()), (Some(502), Some("direct_response")));
}

/// Every IPv4 wildcard becomes an IPv6 one.
#[test]
fn ipv6_is_explained_and_fixed_like_ipv4() {
    let text = case("c01").to_string().replace("\"0.0.0.0\"", "\"::\"");
    let dump = Dump::load(text).unwrap();
    let to: Vec<SocketAddr> =
        ["[fd00::1]:3128", "[fd00::2]:3128", "[fd00::3]:3128"].map(|to| to.parse().unwrap()).to_vec();
    let explanations = explain(&dump, &to, CONNECT).unwrap();
    assert!(explanations.iter().all(|explanation| explanation.decision.status == Some(404)));
    let best = &explanations[0].fixes[0];
    for address in ["fd00::1", "fd00::2", "fd00::3"] {
        assert!(
            best.manifest.contains(&format!("- \"{address}\"\n"))
                || best.manifest.contains(&format!("- {address}\n")),
            "{}",
            best.manifest
        );
        assert!(best.proof.contains(&format!("[{address}]:3128 takes {address}_3128")), "{}", best.proof);
    }
}

/// `tests/dumps`: HTTP services own ports 80, 8080 and 9090 of every address; other ports pass as TCP.
#[test]
fn dumps_of_istio_1_9_and_1_20_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/dumps");
    for (release, sniffs_http_1_0) in [("1.9.1", true), ("1.20.8", false)] {
        let path = folder.join(format!("istio-{release}.json"));
        let dump = Dump::from_bytes(std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(dump.unreadable, 0, "{release}");
        for port in [80, 8080, 9090] {
            let proxy = SocketAddr::new([10, 0, 0, 1].into(), port);
            let explained = explain(&dump, &[proxy], CONNECT).unwrap().remove(0);
            assert_eq!(explained.decision.listener, Some(format!("0.0.0.0_{port}")), "{release}");
            assert_eq!(explained.decision.status, Some(404), "{release} {port}");
            assert!(!explained.origins.is_empty() && !explained.fixes.is_empty(), "{release} {port}");
            let http_1_0 = decide(&dump, proxy, b"CONNECT a.example:443 HTTP/1.0\r\n\r\n").unwrap();
            assert_eq!(http_1_0.kind == Kind::Http, sniffs_http_1_0, "{release} {port}: {http_1_0:?}");
        }
        for port in [443, 3128, 8686, 15012] {
            let proxy = SocketAddr::new([10, 0, 0, 1].into(), port);
            let explained = explain(&dump, &[proxy], CONNECT).unwrap().remove(0);
            assert_eq!(explained.decision.listener.as_deref(), Some("virtualOutbound"), "{release} {port}");
            assert_eq!(explained.decision.outcome, ConnectionOutcome::Tunnel, "{release} {port}");
        }
        for (service, kind) in [("10.96.12.34:8686", Kind::Http), ("10.96.30.1:443", Kind::Tcp)] {
            let decision = decide(&dump, service.parse().unwrap(), CONNECT).unwrap();
            assert_eq!(decision.listener, Some(service.replace(':', "_")), "{release}");
            assert_eq!(decision.kind, kind, "{release} {service}");
        }
    }
}

/// A listener that takes redirected connections on `port` and closes them with `chain` as its chain's name.
fn entry_on(port: u16, chain: &str) -> Value {
    json!({"name": chain, "active_state": {"listener": {
        "name": chain, "use_original_dst": true,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "filter_chains": [{"name": chain, "filters": []}]}}})
}

#[test]
fn redirected_connections_enter_by_the_listener_on_the_redirect_port() {
    let dump = json!({"configs": [{"@type": "a.ListenersConfigDump",
        "dynamic_listeners": [entry_on(15123, "moved"), entry_on(15001, "usual")]}]});
    for (ports, expected) in [(&[][..], "usual"), (&[15123][..], "moved"), (&[9][..], "moved")] {
        let decision = decide(&load(&dump).redirected_to(ports), proxy(), CONNECT).unwrap();
        assert_eq!(decision.filter_chain.as_deref(), Some(expected), "{ports:?}");
    }
}

#[test]
fn a_lone_entry_listener_is_found_on_any_port() {
    let dump = json!({"configs": [{"@type": "a.ListenersConfigDump",
        "dynamic_listeners": [entry_on(15123, "moved")]}]});
    let decision = decide(&load(&dump), proxy(), CONNECT).unwrap();
    assert_eq!(decision.filter_chain.as_deref(), Some("moved"));
}

/// What Envoy says of an update that it refused: envoy `api/envoy/admin/v3/config_dump_shared.proto`, `UpdateFailureState`.
fn refusal(failed: Option<&Value>) -> Value {
    let mut state = json!({"last_update_attempt": "2026-11-20T14:27:29.258Z", "details": "error adding listener: no route"});
    if let Some(failed) = failed {
        state["failed_configuration"] = failed.clone();
    }
    state
}

#[test]
fn newer_versions_that_are_not_in_use_are_named() {
    type Change = fn(&mut Value);
    let listener = |dump: &mut Value, change: Change| {
        let listeners = section(dump, "ListenersConfigDump")["dynamic_listeners"].as_array_mut().unwrap();
        change(listeners.iter_mut().find(|listener| listener["name"] == "0.0.0.0_3128").unwrap());
    };
    let cases: [(Change, &str); 4] = [
        (
            |entry| entry["error_state"] = refusal(None),
            "refused the newest version of listener 0.0.0.0_3128 at 2026-11-20T14:27:29.258Z (error adding listener: \
             no route); this answer is about the one before it",
        ),
        (
            |entry| entry["warming_state"] = entry["active_state"].clone(),
            "a newer version of listener 0.0.0.0_3128 is warming; this answer is about the one in use",
        ),
        (
            |entry| {
                let active = entry.as_object_mut().unwrap().remove("active_state").unwrap();
                entry["warming_state"] = active;
            },
            "listener 0.0.0.0_3128 is warming and not yet in use",
        ),
        (
            |entry| {
                let active = entry.as_object_mut().unwrap().remove("active_state").unwrap();
                entry["error_state"] = refusal(Some(&active["listener"]));
            },
            "Envoy refused listener 0.0.0.0_3128 at 2026-11-20T14:27:29.258Z (error adding listener: no route), so it \
             is not in use",
        ),
    ];
    for (nth, (change, said)) in cases.into_iter().enumerate() {
        let mut dump = case("c01");
        listener(&mut dump, change);
        let decision = decide(&load(&dump), proxy(), CONNECT).unwrap();
        let caveats = decision.caveats.join("\n");
        assert!(caveats.contains(said), "case {nth}: {caveats}");
        assert!(!decision.certain, "case {nth}");
        // Where the listener is not in use, the connection is not its.
        assert_eq!(decision.listener.as_deref() == Some("0.0.0.0_3128"), nth < 2, "case {nth}");
        // Another port has nothing to do with it.
        let other = decide(&load(&dump), "10.0.0.1:8080".parse().unwrap(), CONNECT).unwrap();
        assert!(
            !other.caveats.iter().any(|caveat| caveat.contains("3128")),
            "case {nth}: {:?}",
            other.caveats
        );
    }
}

#[test]
fn refused_routes_and_clusters_are_named_where_they_decide() {
    let mut dump = case("c01");
    let routes = section(&mut dump, ".RoutesConfigDump")["dynamic_route_configs"].as_array_mut().unwrap();
    for entry in routes {
        entry["error_state"] = refusal(None);
    }
    let decision = decide(&load(&dump), proxy(), CONNECT).unwrap();
    let said = "refused the newest version of route configuration 3128 at 2026-11-20T14:27:29.258Z";
    assert!(decision.caveats.iter().any(|caveat| caveat.contains(said)), "{:?}", decision.caveats);

    let mut dump = case("c03");
    let clusters =
        section(&mut dump, "ClustersConfigDump")["dynamic_active_clusters"].as_array_mut().unwrap();
    for entry in clusters {
        entry["error_state"] = refusal(None);
    }
    let decision = decide(&load(&dump), proxy(), CONNECT).unwrap();
    let cluster = decision.cluster.as_deref().unwrap();
    let said = format!("refused the newest version of cluster {cluster} at");
    assert!(decision.caveats.iter().any(|caveat| caveat.contains(&said)), "{:?}", decision.caveats);
}
