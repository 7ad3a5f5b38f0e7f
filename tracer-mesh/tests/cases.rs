//! Every probe of every case: what a real Envoy 1.40 did with these bytes is what the evaluator says from the dump.
#![expect(clippy::disallowed_methods, reason = "the crate is pure, its tests read files and variables")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracer_mesh::{Dump, decide};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    cases.sort();
    cases
}

fn latin_1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

#[test]
fn every_probe_is_explained_as_observed() {
    let mut probes = 0;
    let mut wrong = Vec::new();
    for case in cases() {
        let dump = Dump::load(std::fs::read_to_string(case.join("config_dump.json")).unwrap()).unwrap();
        let expected = std::fs::read_to_string(case.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        for probe in expected["probes"].as_array().unwrap() {
            let Some(explain) = probe.get("explain").filter(|explain| explain.is_object()) else { continue };
            probes += 1;
            let to: SocketAddr = probe["dialed"].as_str().unwrap().parse().unwrap();
            let decision = decide(&dump, to, &latin_1(probe["app_bytes"].as_str().unwrap())).unwrap();
            let decision = serde_json::to_value(&decision).unwrap();
            for (key, value) in explain.as_object().unwrap() {
                if decision.get(key) != Some(value) {
                    wrong.push(format!(
                        "{} {} {key}: {value} expected, {} found",
                        expected["case"], probe["probe"], decision[key]
                    ));
                }
            }
            if decision.get("early_filters").is_some() != explain.get("early_filters").is_some() {
                wrong.push(format!("{} {} early_filters: {decision}", expected["case"], probe["probe"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(probes > 80, "{probes} probes only");
}
