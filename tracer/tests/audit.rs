//! `audit` over saved dumps, as a pipeline runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(name).join("config_dump.json")
}

fn audit(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egress-tracer"));
    command.args(["audit", "--to", "10.0.0.1:3128"]).args(args);
    command.env_remove("LC_ALL").env("LANG", "C.UTF-8").env("TERM", "xterm").env("COLUMNS", "100");
    command.output().expect("it runs")
}

/// A directory with the dumps of three pods, and a file that is none.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let proxies = dir.path().join("proxies/shop");
    for (pod, name) in [
        ("cart-1", "c01_unrelated_http_service_same_port"),
        ("web-1", "c02_no_listener_allow_any"),
        ("pay-1", "c08_registry_only_no_listener"),
    ] {
        std::fs::create_dir_all(proxies.join(pod)).expect("a directory");
        std::fs::copy(case(name), proxies.join(pod).join("config_dump?include_eds")).expect("a dump");
    }
    std::fs::create_dir_all(proxies.join("cut-1")).expect("a directory");
    std::fs::write(proxies.join("cut-1/config_dump?include_eds"), "{\"configs\": [").expect("a file");
    dir
}

#[test]
fn directory_of_dumps_is_judged_and_fails_a_pipeline() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let ended = audit(&["--config-dump", &path, "-o", "json", "--fail-on", "flagged"]);
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let verdict = |pod: &str| {
        let line = lines.iter().find(|line| line["pod"] == pod).unwrap_or_else(|| panic!("{pod}: {text}"));
        line["verdict"].as_str().map(str::to_owned)
    };
    assert_eq!(verdict("shop/cart-1").as_deref(), Some("handled_as_http"));
    assert_eq!(verdict("shop/pay-1").as_deref(), Some("blackholed"));
    assert_eq!(verdict("shop/web-1").as_deref(), Some("tunneled"));
    assert_eq!(verdict("shop/cut-1"), None);
    assert!(text.contains("is cut short"), "{text}");
    let fine = audit(&["--config-dump", &path, "--pod", "shop/web-1", "--fail-on", "flagged"]);
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    let nothing = audit(&["--config-dump", &path, "--pod", "shop/cut-1", "--fail-on", "flagged"]);
    assert_eq!(nothing.status.code(), Some(4), "{nothing:?}");
    let none = audit(&["--config-dump", &path, "-n", "bank"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("none of the 4 sidecars"), "{none:?}");
}

#[test]
fn table_has_what_is_flagged_first_and_fits_the_terminal() {
    let dir = directory();
    let ended = audit(&["--config-dump", &dir.path().display().to_string()]);
    let text = String::from_utf8(ended.stdout).expect("UTF-8");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn hundred_sidecars_are_judged_within_ten_seconds() {
    let dir = tempfile::tempdir().expect("a directory");
    let dump = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/dumps/istio-1.20.8.json");
    for pod in 0..100 {
        let dir = dir.path().join(format!("proxies/shop/web-{pod}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::copy(&dump, dir.join("config_dump?include_eds")).expect("a dump");
    }
    let start = Instant::now();
    let ended = audit(&["--config-dump", &dir.path().display().to_string(), "-o", "json"]);
    let took = start.elapsed();
    assert_eq!(String::from_utf8_lossy(&ended.stdout).lines().count(), 100, "{ended:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
