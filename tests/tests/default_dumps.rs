//! What istiod sends with all of its defaults has filters that a stock Envoy refuses. `explain` reads such dumps like those of a
//! running sidecar. `UPDATE_MISMATCHES=1 cargo test -p tests --test istio_situations` writes these; it compares all situations.

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::tracer_binary;
use serde_json::Value;

#[test]
fn explain_reads_a_dump_with_all_defaults_as_it_reads_the_running_sidecar() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("dumps/istio-defaults");
    let (mut read, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&dir).expect("the dumps") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let Some(name) = name.strip_suffix(".config_dump.json") else { continue };
        let text = fs::read_to_string(&path).expect("a dump");
        assert!(
            text.contains("istio.alpn") || text.contains("istio.metadata_exchange"),
            "{name} has no default filter"
        );
        assert!(!text.contains("PRIVATE KEY"), "{name} has a key");
        let running = fs::read_to_string(dir.join(format!("{name}.json"))).expect("what is right");
        let running: Value = serde_json::from_str(&running).expect("JSON");
        let head = tempfile::NamedTempFile::new().expect("a file");
        let text = |key: &str| running[key].as_str().expect("a text").to_owned();
        fs::write(head.path(), text("head")).expect("written");
        let mut explain = Command::new(tracer_binary().expect("egress-tracer"));
        explain.args(["explain", "-o", "json", "--to", &text("to"), "--config-dump"]);
        let output = explain.arg(&path).arg("--head").arg(head.path()).output().expect("it runs");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let verdict = |value: &Value| [value["verdict"].clone(), value["reason"].clone()];
        read += 1;
        if verdict(&said) != verdict(&running) {
            wrong.push(format!(
                "{name}: says {:?}, of the running sidecar {:?}",
                verdict(&said),
                verdict(&running)
            ));
        }
    }
    assert!(read > 10, "only {read} dumps");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
