//! What the command `explain` prints for the cases.

use std::path::PathBuf;

use tracer::explain::{Args, Output, print};

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
        sidecar_port: vec![15001],
        output,
    };
    let mut out = Vec::new();
    print(&args, &mut out).unwrap();
    String::from_utf8(out).unwrap()
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
