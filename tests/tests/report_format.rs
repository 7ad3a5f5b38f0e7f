//! `docs/report.md` and `docs/report.schema.json` are made from the types of reports, and reports of recordings keep to them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use tracer_core::report::Message;

const HEAD: &str = "\
# Reports

<!-- Generated from tracer-core/src/report.rs by `UPDATE=1 cargo test -p tests --test report_format`. -->

One report for each request to a forward proxy, one JSON object a line. `observe -o json`, `record`'s replay, the live stream
(`/v1/sessions` on the agent's socket) and the agent's log of flagged sessions (`--log-reports`) print the same object.
[`report.schema.json`](report.schema.json) is its JSON Schema (2020-12).

* `v` is 1. Within it, fields may be added; none is removed or changes its meaning.
* All fields are always there. What is not known, or does not apply, is `null`.
* Text from the wire is escaped; credentials and paths are masked before the engine sees them.
* A stream also has [gaps](#gap): objects with `lost` in place of a verdict, where records or reports are missing.
* The agent's log limits the lines of a cause; a line with `suppressed` (a number), `time` and the `cause` counts the others.

```sh
egress-tracer observe --last 20 -o json | jq -r 'select(.flagged) | [.source.namespace, .source.pod, .verdict, .fix] | @tsv'
```

A report of a CONNECT that a sidecar answered:

";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Message>().to_value();
    schema["title"] = "A line of egress-tracer's reports".into();
    schema
}

fn recorded() -> Vec<Value> {
    let mut reports = Vec::new();
    for entry in fs::read_dir(root().join("tests/traces")).expect("the traces") {
        let path = entry.expect("an entry").path();
        if path.to_string_lossy().ends_with(".reports.jsonl") {
            let text = fs::read_to_string(&path).expect("reports");
            reports.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
        }
    }
    reports
}

/// The first sentence block of a description, as one line of a table.
fn described(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The type of a field.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().expect("a type")],
    };
    let kinds = kinds.into_iter().map(|kind| match kind {
        "array" => format!("list of {}", type_of(&schema["items"])),
        other => other.to_owned(),
    });
    kinds.collect::<Vec<_>>().join(" or ")
}

fn section(name: &str, schema: &Value, page: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "\n## {name}\n\n{}\n", described(schema));
    if let Some(properties) = schema["properties"].as_object() {
        page.push_str("| field | type | meaning |\n|---|---|---|\n");
        let fields: Vec<&str> =
            schema["required"].as_array().expect("fields").iter().filter_map(Value::as_str).collect();
        assert_eq!(fields.len(), properties.len(), "{name}: all fields are always there");
        for field in fields {
            let property = &properties[field];
            let _ = writeln!(page, "| `{field}` | {} | {} |", type_of(property), described(property));
        }
        return;
    }
    page.push_str("| value | meaning |\n|---|---|\n");
    for value in schema["oneOf"].as_array().unwrap_or_else(|| panic!("{name}: {schema}")) {
        let named = value["const"].as_str().expect("a value");
        let _ = writeln!(page, "| `{named}` | {} |", described(value));
    }
}

/// The names of the types that `schema` refers to, in the order of its fields.
fn refers_to(schema: &Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                let name = name.rsplit('/').next().expect("a name").to_owned();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            let fields = map.get("required").and_then(Value::as_array);
            if let (Some(fields), Some(properties)) = (fields, map.get("properties")) {
                for field in fields {
                    refers_to(&properties[field.as_str().expect("a name")], names);
                }
            } else {
                map.values().for_each(|value| refers_to(value, names));
            }
        }
        Value::Array(all) => all.iter().for_each(|value| refers_to(value, names)),
        _ => {}
    }
}

fn page(schema: &Value) -> String {
    let mut page = HEAD.to_owned();
    let reports = recorded();
    let example = reports.iter().find(|report| report["flagged"] == true).expect("a flagged report");
    let _ = writeln!(page, "```json\n{}\n```", serde_json::to_string_pretty(example).expect("JSON"));
    let definitions = schema["$defs"].as_object().expect("definitions");
    let mut names = vec!["Report".to_owned(), "Gap".to_owned()];
    let mut next = 0;
    while next < names.len() {
        refers_to(&definitions[&names[next]], &mut names);
        next += 1;
    }
    assert_eq!(names.len(), definitions.len(), "{names:?}");
    for name in &names {
        section(name, &definitions[name], &mut page);
    }
    page
}

#[test]
fn page_and_schema_are_those_of_the_types() {
    let schema = schema();
    let pages = [("report.md", page(&schema)), ("report.schema.json", format!("{schema:#}\n"))];
    for (name, expected) in pages {
        let path = root().join("docs").join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &expected).expect("written");
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == expected, "docs/{name} is stale: UPDATE=1 cargo test -p tests --test report_format");
    }
}

/// Validates each line, with a schema that allows no field that it does not list. Prints the number of invalid ones.
const VALIDATE: &str = "
import json, sys, jsonschema
def close(part):
    if isinstance(part, dict):
        if 'properties' in part:
            part['additionalProperties'] = False
        for each in part.values():
            close(each)
    elif isinstance(part, list):
        for each in part:
            close(each)
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
close(schema)
validator = jsonschema.Draft202012Validator(schema)
print([not validator.is_valid(each) for each in json.load(open(sys.argv[2]))].count(True))
";

/// How many of the lines the schema refuses.
fn refused(lines: &[Value]) -> usize {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("lines.json");
    fs::write(&path, serde_json::to_string(lines).expect("JSON")).expect("written");
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", VALIDATE]).arg(root().join("docs/report.schema.json")).arg(&path);
    let output = python.output().expect("python3 (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

#[test]
fn recorded_reports_and_gaps_are_valid_and_changed_ones_are_not() {
    let mut lines = recorded();
    assert!(lines.len() >= 2, "{} reports", lines.len());
    let time = lines[0]["time"].clone();
    lines
        .push(json!({"v": 1, "time": time, "lost": {"source": "kernel", "reason": "ring_full", "count": 3}}));
    assert_eq!(refused(&lines), 0);

    let changed = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut line = lines[0].clone();
        change(line.as_object_mut().expect("an object"));
        line
    };
    let wrong = [
        changed(&|report| drop(report.remove("verdict"))),
        changed(&|report| drop(report.insert("verdict".to_owned(), "unknown_verdict".into()))),
        changed(&|report| drop(report.insert("undocumented".to_owned(), Value::Null))),
        changed(&|report| drop(report.insert("flagged".to_owned(), "yes".into()))),
        changed(&|report| drop(report["source"].as_object_mut().expect("an object").remove("pid"))),
    ];
    assert_eq!(refused(&wrong), wrong.len());
}
