//! Answers for the cases: snapshots of the text, and that every fix that is shown works.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files")]

use std::net::SocketAddr;
use std::path::Path;

use tracer_mesh::{CURL_CONNECT, Dump, Finding, decide_with, explain, render};

fn dump_of(case: &str) -> Dump {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(case);
    Dump::load(std::fs::read_to_string(folder.join("config_dump.json")).unwrap()).unwrap()
}

fn printed(case: &str, to: &[&str]) -> String {
    let to: Vec<SocketAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
    let dump = dump_of(case);
    render::text(&explain(&dump, &to, CURL_CONNECT).unwrap(), dump.unreadable)
}

#[test]
fn text_of_an_unrelated_service() {
    insta::assert_snapshot!(printed("c01_unrelated_http_service_same_port", &["10.0.0.1:3128"]));
}

#[test]
fn text_of_a_proxy_with_one_address_missing() {
    let to = ["10.0.0.1:3128", "10.0.0.2:3128"];
    insta::assert_snapshot!(printed("c03_tcp_serviceentry_address", &to));
}

#[test]
fn text_of_an_in_cluster_proxy() {
    insta::assert_snapshot!(printed("c06_auto_sniffed_service", &["10.96.0.50:3128"]));
}

#[test]
fn text_of_a_black_hole() {
    insta::assert_snapshot!(printed("c08_registry_only_no_listener", &["10.0.0.1:3128"]));
}

#[test]
fn every_fix_that_is_shown_makes_the_connection_reach_the_proxy() {
    for (case, to, least) in [
        ("c01_unrelated_http_service_same_port", "10.0.0.1:3128", 3),
        ("c03_tcp_serviceentry_address", "10.0.0.2:3128", 3),
        ("c06_auto_sniffed_service", "10.96.0.50:3128", 1),
        ("c08_registry_only_no_listener", "10.0.0.1:3128", 2),
        ("c11_connect_upgrade_forwarded", "10.0.0.1:3128", 2),
        ("c12_connect_terminated", "10.0.0.1:3128", 2),
        ("c13_connect_matcher_without_upgrade", "10.0.0.1:3128", 2),
        ("c23_http_filter_denies", "10.0.0.1:3128", 2),
    ] {
        let dump = dump_of(case);
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
fn a_connection_that_reaches_its_proxy_has_no_fix_and_no_origin() {
    for case in ["c02_no_listener_allow_any", "c15_upstream_is_envoy_404"] {
        let dump = dump_of(case);
        let explanations = explain(&dump, &["10.0.0.1:3128".parse().unwrap()], CURL_CONNECT).unwrap();
        assert!(explanations[0].fixes.is_empty() && explanations[0].origins.is_empty(), "{case}");
    }
}

#[test]
fn every_code_is_unique_and_has_its_section_in_the_page_of_findings() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings.md")).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), Finding::ALL.len());
    for (finding, section) in Finding::ALL.iter().zip(sections) {
        let (code, text) = section.split_once('\n').unwrap();
        assert_eq!(code, finding.code);
        let title = text.trim_start().trim_start_matches("**").to_lowercase();
        assert!(title.starts_with(&format!("{}.**", finding.title.to_lowercase())), "{code}: {title}");
    }
}
