//! The whole circle with a real Envoy: a CONNECT fails, `explain --pid` says why, the effect of the fix that it prints
//! is delivered to that Envoy, and the same CONNECT works. External and in-cluster proxies, one address and three, IPv4
//! and IPv6.

#![allow(dead_code, reason = "the generator of the envoy module belongs to another test")]

mod envoy;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use envoy::Pod;
use serde_json::{Value, json};
use tracer::explain::{AdminEndpoint, Fetches, Sidecars};
use tracer_mesh::{CURL_CONNECT, explain};

/// The listeners and clusters of a case's dump, with the routes in files that the listeners name.
fn resources(pod: &Pod, case: &str) -> (Vec<Value>, Vec<Value>) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(case).join("config_dump.json");
    let dump: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let of_kind = |kind: &str, list: &str| -> Vec<Value> {
        let sections = dump["configs"].as_array().unwrap().iter();
        let section = sections.clone().find(|section| section["@type"].as_str().unwrap().ends_with(kind));
        section.unwrap()[list].as_array().cloned().unwrap_or_default()
    };
    let listeners = of_kind("ListenersConfigDump", "dynamic_listeners");
    let mut listeners: Vec<Value> =
        listeners.iter().map(|entry| entry["active_state"]["listener"].clone()).collect();
    let clusters = of_kind("ClustersConfigDump", "dynamic_active_clusters");
    let clusters = clusters.iter().map(|entry| entry["cluster"].clone()).collect();
    let routes = of_kind_or_none(&dump, "RoutesConfigDump", "dynamic_route_configs");
    for listener in &mut listeners {
        for chain in listener["filter_chains"].as_array_mut().unwrap() {
            for filter in chain["filters"].as_array_mut().unwrap() {
                let config = &mut filter["typed_config"];
                let Some(name) = config["rds"]["route_config_name"].as_str().map(str::to_owned) else {
                    continue;
                };
                let at = routes.iter().position(|route| route["name"] == name.as_str()).unwrap();
                let file = pod.file(&format!("rds-{at}.json"));
                std::fs::write(&file, json!({"resources": [routes[at]]}).to_string()).unwrap();
                config["rds"]["config_source"]["path_config_source"]["path"] = json!(file);
            }
        }
    }
    // istiod binds every wildcard of a dual-stack proxy to both families.
    for listener in &mut listeners {
        if listener["address"]["socket_address"]["address"] == "0.0.0.0" {
            let port = listener["address"]["socket_address"]["port_value"].clone();
            listener["additional_addresses"] =
                json!([{"address": {"socket_address": {"address": "::", "port_value": port}}}]);
        }
    }
    (listeners, clusters)
}

fn of_kind_or_none(dump: &Value, kind: &str, list: &str) -> Vec<Value> {
    let sections = dump["configs"].as_array().unwrap().iter();
    let lists = sections.filter(|section| section["@type"].as_str().unwrap().ends_with(kind));
    lists
        .flat_map(|section| section[list].as_array().cloned().unwrap_or_default())
        .map(|e| e["route_config"].clone())
        .collect()
}

/// A forward proxy on every address of the namespace: it answers a CONNECT, and knows nothing else.
fn serve_proxy(pod: &Pod) {
    // A socket on `[::]` takes both families.
    let listener = pod.within(|| TcpListener::bind("[::]:3128").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).unwrap_or(0);
            if head[..length] == *CURL_CONNECT {
                let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            }
        }
    });
}

fn mend(case: &str, to: &[&str], before: &[u8]) {
    let to: Vec<SocketAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
    let pod = Pod::new();
    let (mut listeners, mut clusters) = resources(&pod, case);
    serve_proxy(&pod);
    let envoy = pod.envoy(&listeners, &clusters);
    let clients: Vec<(SocketAddr, Vec<u8>)> = to.iter().map(|to| (*to, CURL_CONNECT.to_vec())).collect();
    for (talk, _) in envoy.dial(&clients) {
        assert!(talk.received.starts_with(before), "{case}: {:?}", String::from_utf8_lossy(&talk.received));
    }
    let explanations = explain(&envoy.dump(), &to, CURL_CONNECT).unwrap();
    let fix = explanations[0].fixes.first().expect("a fix");
    println!("{case}: {}", fix.title);
    for listener in &fix.edit.listeners {
        listeners.retain(|old| old["name"] != listener["name"]);
        listeners.push(listener.clone());
    }
    listeners.retain(|old| !fix.edit.removed_listeners.iter().any(|name| old["name"] == name.as_str()));
    clusters.extend(fix.edit.clusters.iter().cloned());
    pod.deliver(&listeners, &clusters);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answers = envoy.dial(&clients);
        if answers.iter().all(|(talk, _)| talk.received.starts_with(b"HTTP/1.1 200 Connection established")) {
            return;
        }
        let received: Vec<_> =
            answers.iter().map(|(talk, _)| String::from_utf8_lossy(&talk.received)).collect();
        assert!(Instant::now() < deadline, "{case}: still {received:?} after: {}", fix.title);
    }
}

#[test]
fn an_external_proxy_behind_an_unrelated_service() {
    mend("c01_unrelated_http_service_same_port", &["10.0.0.1:3128"], b"HTTP/1.1 404");
}

#[test]
fn three_addresses_of_both_families() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128", "[fd00::1]:3128"];
    mend("c01_unrelated_http_service_same_port", &to, b"HTTP/1.1 404");
}

#[test]
fn an_external_proxy_under_registry_only() {
    mend("c08_registry_only_no_listener", &["10.0.0.1:3128", "10.0.0.2:3128", "10.0.0.3:3128"], b"");
}

#[test]
fn an_in_cluster_proxy() {
    mend("c06_auto_sniffed_service", &["10.96.0.50:3128"], b"HTTP/1.1 404");
}

#[test]
fn a_terminated_connect() {
    mend("c12_connect_terminated", &["10.0.0.1:3128"], b"");
}

#[test]
fn an_agent_gets_the_short_form_with_one_fetch() {
    let pod = Pod::new();
    let (listeners, clusters) = resources(&pod, "c01_unrelated_http_service_same_port");
    let envoy = pod.envoy(&listeners, &clusters);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let to = "10.0.0.1:3128".parse().unwrap();
    let sidecar = AdminEndpoint { pid: envoy.pid(), admin_port: 15000 };
    let sidecars = Sidecars::new();
    for _ in 0..3 {
        let answer = runtime.block_on(sidecars.brief(sidecar, to, CURL_CONNECT)).unwrap();
        assert_eq!(answer.brief.listener.as_deref(), Some("0.0.0.0_3128"));
        assert_eq!(answer.brief.because.as_deref(), Some("Service shop/web port 3128 (HTTP)"));
        assert_eq!(answer.brief.fix.as_deref(), Some("ServiceEntry: send 10.0.0.1:3128 as TCP"));
    }
    assert_eq!(sidecars.fetches(), Fetches { ok: 1, failed: 0 });
    let absent = AdminEndpoint { admin_port: 15099, ..sidecar };
    assert!(runtime.block_on(sidecars.brief(absent, to, CURL_CONNECT)).is_none());
}
