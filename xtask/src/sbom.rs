//! The image's bill of materials: every crate that is linked into egress-tracer, as `CycloneDX` 1.5. It has no times or random
//! numbers, so the same sources give the same file. <https://cyclonedx.org/docs/1.5/json/>

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::cargo;
use crate::progress;

/// The output of `cargo metadata` for a target.
pub(crate) fn metadata(bar: &ProgressBar, target: &str) -> Result<Value> {
    let mut command = cargo::here();
    command.args(["metadata", "--format-version", "1", "--filter-platform", target]);
    let said = progress::command(bar, &mut command)?;
    serde_json::from_str(&said).context("cargo metadata wrote no JSON")
}

/// The bill of materials as JSON.
pub(crate) fn of(metadata: &Value) -> Result<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let root = packages.iter().find(|(_, package)| package["name"] == "tracer").map(|(id, _)| id.clone());
    let root = root.context("cargo knows no package named tracer")?;
    let mut linked = BTreeSet::new();
    let mut open = vec![root.clone()];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(&id) else { continue };
        if linked.insert(id) {
            // A kind of null is a normal dependency: neither for tests nor for build scripts.
            let is_linked =
                |dependency: &Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            open.extend(list(&node["deps"]).iter().filter(|one| is_linked(one)).map(|one| text(&one["pkg"])));
        }
    }
    linked.remove(&root);
    let component = |id: &String| {
        let package = packages.get(id)?;
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "scope": "required",
        });
        if let Some(license) = package["license"].as_str() {
            // `MIT/Apache-2.0` is the old notation, and no SPDX expression.
            component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
        }
        Some(component)
    };
    let version = env!("CARGO_PKG_VERSION");
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": format!("egress-tracer@{version}"), "name": "egress-tracer",
            "version": version, "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": linked.iter().filter_map(component).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_tests_or_builds_is_not() {
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let package =
            |name: &str| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0"});
        let metadata = json!({
            "packages": [package("tracer"), package("a"), package("b"), package("c"), package("d")],
            "resolve": {"nodes": [
                {"id": "tracer", "deps": [dependency("a", Value::Null), dependency("c", json!("dev"))]},
                {"id": "a", "deps": [dependency("b", Value::Null), dependency("d", json!("build"))]},
                {"id": "b", "deps": []}, {"id": "c", "deps": []}, {"id": "d", "deps": []},
            ]},
        });
        let bill: Value = serde_json::from_str(&of(&metadata).expect("a bill")).expect("JSON");
        let names: Vec<&str> = bill["components"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/a@1.0.0");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }
}
