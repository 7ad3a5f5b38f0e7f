//! How long a dump of 5,000 services takes to explain, and how much memory: a plain measurement, generator included.
//! `cargo bench -p tracer --bench mesh_dump`; the budget is one second and 400 MB.

use std::fmt::Write;
use std::time::Instant;

/// Text of a dump of `services` HTTP services on a few shared ports, of about 10 kB each.
fn generate(services: usize) -> String {
    let mut clusters = String::new();
    let mut hosts = [String::new(), String::new()];
    let mut listeners = String::new();
    let kind = "type.googleapis.com/envoy.config";
    let filler = "x".repeat(6600);
    for number in 0..services {
        let (host, port) =
            (format!("svc-{number}.ns-{}.svc.cluster.local", number % 50), [3128, 80][number % 2]);
        let _ = write!(
            clusters,
            r#"{{"cluster":{{"@type":"{kind}.cluster.v3.Cluster","name":"outbound|{port}||{host}","type":"EDS","note":"{filler}","metadata":{{"filter_metadata":{{"istio":{{"services":[{{"host":"{host}","name":"svc-{number}","namespace":"ns-{}"}}]}}}}}}}},"last_updated":"2026-11-20T00:00:00Z"}},"#,
            number % 50
        );
        let _ = write!(
            hosts[number % 2],
            r#"{{"name":"{host}:{port}","domains":["{host}","svc-{number}.ns-{}","10.1.{}.{}"],"routes":[{{"name":"default","match":{{"prefix":"/"}},"note":"{}","route":{{"cluster":"outbound|{port}||{host}","timeout":"0s"}}}}]}},"#,
            number % 50,
            number / 256,
            number % 256,
            &filler[..1400]
        );
        let _ = write!(
            listeners,
            r#"{{"name":"10.2.{0}.{1}_443","active_state":{{"listener":{{"name":"10.2.{0}.{1}_443","address":{{"socket_address":{{"address":"10.2.{0}.{1}","port_value":443}}}},"bind_to_port":false,"filter_chains":[{{"filters":[{{"name":"envoy.filters.network.tcp_proxy","note":"{2}","typed_config":{{"@type":"a.TcpProxy","cluster":"outbound|{port}||{host}"}}}}]}}]}}}}}},"#,
            number / 256,
            number % 256,
            &filler[..1400]
        );
    }
    let http = r#"{"name":"0.0.0.0_3128","active_state":{"listener":{"name":"0.0.0.0_3128","address":{"socket_address":{"address":"0.0.0.0","port_value":3128}},"listener_filters":[{"name":"envoy.filters.listener.http_inspector","typed_config":{"@type":"a.HttpInspector"}}],"filter_chains":[{"filter_chain_match":{"transport_protocol":"raw_buffer","application_protocols":["http/1.1","h2c"]},"filters":[{"name":"h","typed_config":{"@type":"a.HttpConnectionManager","rds":{"route_config_name":"3128"},"http_filters":[{"name":"envoy.filters.http.router"}]}}]}]}}}"#;
    let entry = r#"{"name":"virtualOutbound","active_state":{"listener":{"name":"virtualOutbound","address":{"socket_address":{"address":"0.0.0.0","port_value":15001}},"use_original_dst":true,"filter_chains":[{"filters":[{"name":"t","typed_config":{"@type":"a.TcpProxy","cluster":"PassthroughCluster"}}]}]}}}"#;
    let routes = |name: &str, hosts: &str| {
        format!(
            r#"{{"route_config":{{"name":"{name}","virtual_hosts":[{hosts}{{"name":"allow_any","domains":["*"],"routes":[]}}]}}}}"#
        )
    };
    format!(
        r#"{{"configs":[{{"@type":"a.ClustersConfigDump","dynamic_active_clusters":[{clusters}{{"cluster":{{"name":"PassthroughCluster","type":"ORIGINAL_DST"}}}}]}},{{"@type":"a.ListenersConfigDump","dynamic_listeners":[{listeners}{http},{entry}]}},{{"@type":"a.RoutesConfigDump","dynamic_route_configs":[{},{}]}}]}}"#,
        routes("3128", &hosts[0]),
        routes("80", &hosts[1]),
    )
}

/// A line of `/proc/self/status`, in MB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    number.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn main() {
    let path = std::env::temp_dir().join(format!("egress-tracer-bench-{}.json", std::process::id()));
    // The generator runs in a process of its own, so that its memory does not count.
    if let Some(path) = std::env::var_os("EGRESS_TRACER_BENCH_WRITE") {
        std::fs::write(path, generate(5000)).unwrap();
        return;
    }
    let me = std::env::current_exe().unwrap();
    assert!(
        std::process::Command::new(me).env("EGRESS_TRACER_BENCH_WRITE", &path).status().unwrap().success()
    );
    for round in 1..=3 {
        let bytes = std::fs::read(&path).unwrap();
        let size = bytes.len() / 1_000_000;
        let start = Instant::now();
        let dump = tracer_mesh::Dump::from_bytes(bytes).unwrap();
        let loaded = start.elapsed();
        let to = "10.0.0.1:3128".parse().unwrap();
        let explanations = tracer_mesh::explain(&dump, &[to], tracer_mesh::CURL_CONNECT).unwrap();
        assert_eq!(explanations[0].decision.status, Some(404));
        assert_eq!(explanations[0].origins_total, 2500);
        println!(
            "round {round}: {size} MB explained in {:?} (of which index {loaded:?}), peak {} MB, {} fixes",
            start.elapsed(),
            memory("VmHWM:"),
            explanations[0].fixes.len(),
        );
    }
    std::fs::remove_file(path).unwrap();
}
