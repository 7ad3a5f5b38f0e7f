//! What `explain` prints for the cases: snapshots of the text, the best manifests, and that every fix is a cure.

use std::net::SocketAddr;
use std::path::PathBuf;

use tracer::explain::{Args, Output, print};
use tracer_mesh::{CURL_CONNECT, Dump, decide_with, explain};

fn dump_of(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(case).join("config_dump.json")
}

fn printed(case: &str, to: &[&str], output: Output) -> String {
    let to = to.iter().map(|to| to.parse().unwrap()).collect();
    let args = Args {
        to,
        config_dump: Some(dump_of(case)),
        pid: None,
        pod: None,
        runtime_endpoint: None,
        head: None,
        admin_port: 15000,
        output,
    };
    let mut out = Vec::new();
    print(&args, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn text_of_an_unrelated_service() {
    insta::assert_snapshot!(printed(
        "c01_unrelated_http_service_same_port",
        &["10.0.0.1:3128"],
        Output::Text
    ));
}

#[test]
fn text_of_a_proxy_with_one_address_missing() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128"];
    insta::assert_snapshot!(printed("c03_tcp_serviceentry_address", &to, Output::Text));
}

#[test]
fn text_of_an_in_cluster_proxy() {
    insta::assert_snapshot!(printed("c06_auto_sniffed_service", &["10.96.0.50:3128"], Output::Text));
}

#[test]
fn text_of_a_black_hole() {
    insta::assert_snapshot!(printed("c08_registry_only_no_listener", &["10.0.0.1:3128"], Output::Text));
}

#[test]
fn json_of_an_unrelated_service() {
    insta::assert_snapshot!(printed(
        "c01_unrelated_http_service_same_port",
        &["10.0.0.1:3128"],
        Output::Json
    ));
}

#[test]
fn the_manifest_alone_names_all_addresses() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128", "[fd00::3]:3128"];
    insta::assert_snapshot!(printed("c08_registry_only_no_listener", &to[..2], Output::Yaml));
}

#[test]
fn every_fix_that_is_shown_is_a_cure() {
    for (case, to, least) in [
        ("c01_unrelated_http_service_same_port", "10.0.0.1:3128", 4),
        ("c03_tcp_serviceentry_address", "10.0.0.2:3128", 4),
        ("c06_auto_sniffed_service", "10.96.0.50:3128", 2),
        ("c08_registry_only_no_listener", "10.0.0.1:3128", 2),
        ("c11_connect_upgrade_forwarded", "10.0.0.1:3128", 2),
        ("c12_connect_terminated", "10.0.0.1:3128", 2),
        ("c13_connect_matcher_without_upgrade", "10.0.0.1:3128", 2),
        ("c23_http_filter_denies", "10.0.0.1:3128", 2),
    ] {
        let dump = Dump::load(std::fs::read_to_string(dump_of(case)).unwrap()).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        let explanations = explain(&dump, &[to], CURL_CONNECT).unwrap();
        let fixes = &explanations[0].fixes;
        assert!(fixes.len() >= least, "{case}: {} fixes", fixes.len());
        for fix in fixes {
            assert!(
                decide_with(&dump, &fix.edit, to, CURL_CONNECT).unwrap().reaches_proxy(),
                "{case}: {}",
                fix.title
            );
        }
    }
}

#[test]
fn what_works_needs_no_fix() {
    for case in ["c02_no_listener_allow_any", "c15_upstream_is_envoy_404"] {
        let dump = Dump::load(std::fs::read_to_string(dump_of(case)).unwrap()).unwrap();
        let explanations = explain(&dump, &["10.0.0.1:3128".parse().unwrap()], CURL_CONNECT).unwrap();
        assert!(explanations[0].fixes.is_empty() && explanations[0].culprits.is_empty(), "{case}");
    }
}
