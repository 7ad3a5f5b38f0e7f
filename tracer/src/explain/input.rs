//! The forms in which a configuration is found, made into the one that [`tracer_mesh::Dump`] reads: whole dumps, the parts
//! that `istioctl proxy-config` prints, JSON or YAML, plain or compressed.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::admin::MAX_DUMP;
use super::resource::{Section, Shape, contents};
use super::ztunnel;

/// Why an input is not a configuration. Each is one sentence that follows the input's name.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// No byte, or white space alone.
    #[error("is empty")]
    Empty,
    /// It ends in the middle.
    #[error("is cut short ({0}): take it again, whole")]
    CutShort(String),
    /// The gzip data is damaged.
    #[error("is gzip, but cannot be unpacked: {0}")]
    Gzip(std::io::Error),
    /// It is larger than what is read.
    #[error("is larger than {MAX_DUMP} bytes once unpacked, the most that is read")]
    TooLarge,
    /// The bytes are neither text nor a known compression.
    #[error("is binary, and neither gzip nor a tar archive")]
    Binary,
    /// It is text of another kind.
    #[error(
        "is neither JSON nor YAML of a configuration; it begins with `{0}`. A dump comes from \
         127.0.0.1:15000/config_dump?include_eds, its parts from `istioctl proxy-config … -o json`"
    )]
    OtherText(String),
    /// The JSON has a mistake.
    #[error("is not JSON: {0}")]
    Json(serde_json::Error),
    /// The YAML has a mistake.
    #[error("is not YAML: {0}")]
    Yaml(String),
    /// It is an object for Kubernetes.
    #[error(
        "is a Kubernetes object ({0}), not a proxy's configuration; --try lays such an object over a configuration"
    )]
    KubernetesObject(String),
    /// It is the configuration of a ztunnel.
    #[error("{0}")]
    Ztunnel(String),
    /// It holds no listener.
    #[error(
        "holds {0} and no listeners: add the output of `istioctl proxy-config listeners POD -o json` with a second \
         --config-dump, or take a whole dump"
    )]
    NoListeners(String),
    /// It holds nothing of a proxy.
    #[error(
        "holds no listener, nor another part of a proxy's configuration; it begins with `{0}`. A dump comes from \
         127.0.0.1:15000/config_dump?include_eds"
    )]
    NoResource(String),
}

/// Unpacks gzip; other bytes are returned as they are.
pub(super) fn gunzip(bytes: Vec<u8>) -> Result<Vec<u8>, InputError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    let read = MultiGzDecoder::new(bytes.as_slice()).take(MAX_DUMP + 1).read_to_end(&mut unpacked);
    read.map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => InputError::CutShort("the gzip data ends in the middle".to_owned()),
        _ => InputError::Gzip(error),
    })?;
    if u64::try_from(unpacked.len()).unwrap_or(u64::MAX) > MAX_DUMP {
        return Err(InputError::TooLarge);
    }
    // Compressed twice, as by a browser or a bucket.
    if unpacked.starts_with(&[0x1f, 0x8b]) { gunzip(unpacked) } else { Ok(unpacked) }
}

/// The text of one JSON dump that holds all of `parts`, which are of one proxy.
pub(super) fn dump_text(mut parts: Vec<Vec<u8>>) -> Result<String, InputError> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        let text = json_text(only)?;
        return if is_whole(&text) { Ok(text) } else { joined(&[text]) };
    }
    let texts: Result<Vec<String>, InputError> = parts.into_iter().map(json_text).collect();
    joined(&texts?)
}

/// Whether Envoy's own answer is all there is, which then needs no second look at its megabytes.
fn is_whole(text: &str) -> bool {
    let start = text.trim_start().strip_prefix('{').map(str::trim_start);
    start.is_some_and(|start| start.starts_with("\"configs\""))
}

/// The JSON text of one part.
fn json_text(bytes: Vec<u8>) -> Result<String, InputError> {
    let text = String::from_utf8(bytes).map_err(|error| {
        // A character that the end of the text cuts.
        if error.utf8_error().error_len().is_none() {
            InputError::CutShort("it ends within a character".to_owned())
        } else {
            InputError::Binary
        }
    })?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    };
    match text.trim_start().chars().next() {
        None => Err(InputError::Empty),
        Some('{' | '[') => Ok(text),
        Some('\0') => Err(InputError::Binary),
        Some(_) => yaml_to_json(&text),
    }
}

fn yaml_to_json(text: &str) -> Result<String, InputError> {
    let documents = yaml_documents(text)?;
    if !documents.iter().any(|document| document.is_object() || document.is_array()) {
        return Err(other_text(text));
    }
    let elements: Vec<Value> = documents
        .into_iter()
        .flat_map(|document| match document {
            Value::Array(elements) => elements,
            other => vec![other],
        })
        .collect();
    let only = if elements.len() == 1 { elements.into_iter().next() } else { Some(Value::Array(elements)) };
    Ok(only.unwrap_or_default().to_string())
}

/// The documents of a YAML text, those of a list unpacked.
pub(super) fn yaml_documents(text: &str) -> Result<Vec<Value>, InputError> {
    let budget = serde_saphyr::budget! {
        // The text is bounded already, and a mesh of 5,000 services has millions of nodes.
        max_events: usize::MAX,
        max_nodes: usize::MAX,
        max_total_scalar_bytes: usize::MAX,
        max_depth: 120, // serde_json reads 128 levels
    };
    let options = serde_saphyr::options! {
        budget: budget,
        // In what Go prints, `on` and `y` are names.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let first = first_line(text);
        // A table or an error message reads as a broken mapping.
        if first.contains(": ") || first.ends_with(':') || first.starts_with("- ") || first == "---" {
            InputError::Yaml(error.to_string().lines().next().unwrap_or_default().to_owned())
        } else {
            other_text(text)
        }
    })
}

fn other_text(text: &str) -> InputError {
    InputError::OtherText(beginning(text))
}

/// The beginning of the first line, for a message.
fn beginning(text: &str) -> String {
    let line: String = first_line(text).chars().take(60).collect();
    tracer_core::escape::escape(&line).into_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim_end).find(|line| !line.is_empty()).unwrap_or_default()
}

/// What tells the top level of an input.
#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow, default)]
    configs: Option<&'a RawValue>,
    #[serde(rename = "@type", default)]
    kind: Option<IgnoredAny>,
    #[serde(default)]
    workloads: Option<IgnoredAny>,
    #[serde(default)]
    services: Option<IgnoredAny>,
}

/// One dump from parts, each of which is a whole dump, one resource, or a list of resources.
fn joined(texts: &[String]) -> Result<String, InputError> {
    let mut dump = String::with_capacity(texts.iter().map(String::len).sum::<usize>() + 64);
    dump.push_str("{\"configs\":[");
    let mut found = Vec::new();
    let mut typed = false;
    for text in texts {
        for element in elements(text)? {
            let raw = element.get();
            if !raw.starts_with('{') {
                continue;
            }
            let shape: Shape = serde_json::from_str(raw).map_err(json_error)?;
            if shape.kind.is_some() {
                typed = true;
            } else if shape.api_version.is_some()
                && let Some(Value::String(kind)) = &shape.kubernetes_kind
            {
                return Err(InputError::KubernetesObject(tracer_core::escape::escape(kind).into()));
            }
            let entry = if shape.kind.is_some() {
                Cow::Borrowed(raw)
            } else if let Some((message, section)) = shape.message() {
                found.push(section);
                let body = raw.get(1..).unwrap_or_default();
                let comma = if body.trim_start().starts_with('}') { "" } else { "," };
                Cow::Owned(format!("{{\"@type\":\"type.googleapis.com/{message}\"{comma}{body}"))
            } else {
                continue;
            };
            if !dump.ends_with('[') {
                dump.push(',');
            }
            dump.push_str(&entry);
        }
    }
    dump.push_str("]}");
    if !typed && !found.contains(&Section::Listeners) {
        return Err(match found.as_slice() {
            [] => InputError::NoResource(beginning(texts.first().map_or("", String::as_str))),
            found => InputError::NoListeners(contents(found)),
        });
    }
    Ok(dump)
}

/// The resources of one part.
fn elements(text: &str) -> Result<Vec<&RawValue>, InputError> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(json_error);
    }
    let top: Top<'_> = serde_json::from_str(text).map_err(json_error)?;
    if top.configs.is_none() && top.kind.is_none() && top.workloads.is_some() && top.services.is_some() {
        return Err(InputError::Ztunnel(ztunnel::refusal(text)));
    }
    match top.configs {
        Some(configs) if configs.get().starts_with('[') => {
            serde_json::from_str(configs.get()).map_err(json_error)
        }
        Some(_) => Ok(Vec::new()),
        None => Ok(vec![serde_json::from_str(text).map_err(json_error)?]),
    }
}

/// A mistake in JSON, or its early end.
pub(super) fn json_error(error: serde_json::Error) -> InputError {
    if error.is_eof() {
        let place = format!("the JSON ends in the middle, at line {}", error.line());
        InputError::CutShort(place)
    } else {
        InputError::Json(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const LISTENERS: &str = "- name: 0.0.0.0_3128\n  filterChains: []\n  trafficDirection: OUTBOUND\n";

    fn refused(text: &str) -> String {
        dump_text(vec![text.as_bytes().to_vec()]).expect_err(text).to_string()
    }

    #[test]
    fn parts_without_types_become_one_dump() {
        let routes = r#"[{"name": "3128", "validateClusters": false}]"#;
        let clusters = r#"[{"name": "c", "type": "EDS"}]"#;
        let bootstrap = r#"{"bootstrap": {"node": {"id": "a~b~c.d~e"}}}"#;
        let parts = [LISTENERS, routes, clusters, bootstrap].map(|part| part.as_bytes().to_vec());
        let text = dump_text(parts.to_vec()).expect("a dump");
        let dump: Value = serde_json::from_str(&text).expect("JSON");
        let kinds: Vec<&str> = dump["configs"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|element| element["@type"].as_str()?.rsplit('.').next())
            .collect();
        assert_eq!(kinds, ["Listener", "RouteConfiguration", "Cluster", "BootstrapConfigDump"]);
        assert_eq!(dump["configs"][0]["name"], "0.0.0.0_3128");
    }

    #[test]
    fn whole_dump_is_passed_on_as_it_is() {
        let text = "{\n \"configs\": [ {\"@type\": \"x\"} ]}";
        assert_eq!(dump_text(vec![text.as_bytes().to_vec()]).expect("a dump"), text);
    }

    #[test]
    fn input_that_is_no_configuration_is_named() {
        for (text, words) in [
            ("", "is empty"),
            (" \n\n", "is empty"),
            ("NAME   CLUSTER\na b", "begins with `NAME"),
            ("<html><body>no</body></html>", "begins with `<html>"),
            ("Error: pod not found", "pod not found"),
            ("[{\"name\": \"3128\", \"virtualHosts\": [", "is cut short"),
            ("{\"a\": nonsense}", "is not JSON"),
            ("a: [1, 2\nb: 3", "is not YAML"),
            ("[{\"name\": \"3128\", \"virtualHosts\": []}]", "holds routes and no listeners"),
            ("[]", "holds no listener, nor"),
            ("{\"apiVersion\": \"v1\", \"kind\": \"Service\"}", "Kubernetes object (Service)"),
            ("apiVersion: v1\nkind: Service\n", "Kubernetes object (Service)"),
        ] {
            let error = refused(text);
            assert!(error.contains(words) && !error.contains('\n'), "{text:?}: {error}");
        }
        let binary = dump_text(vec![vec![0xff, 0xfe, 0, 1, b'a', b'b']]).expect_err("binary").to_string();
        assert!(binary.contains("is binary"), "{binary}");
    }

    #[test]
    fn gzip_is_unpacked_and_a_cut_one_is_named() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(LISTENERS.repeat(100).as_bytes()).expect("written");
        let packed = packed.finish().expect("packed");
        assert_eq!(gunzip(packed.clone()).expect("unpacked"), LISTENERS.repeat(100).as_bytes());
        let cut = gunzip(packed[..packed.len() - 12].to_vec()).expect_err("cut").to_string();
        assert!(cut.contains("cut short"), "{cut}");
    }
}
